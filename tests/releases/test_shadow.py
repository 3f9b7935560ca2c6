"""The shadow stage: asked the same, answering nobody."""

import json
import threading
import time

import pytest
import requests
from tests.api.conftest import Live, make_tiny, tune
from tests.releases.test_hot_swap import client_of, put
from tests.test_hosting import make_adapters

from postgres_server import store_url
from tunewright.api import mirror
from tunewright.api.app import make_app
from tunewright.database.engine import open_database
from tunewright.hosting import Hosting
from tunewright.releases.board import add_release
from tunewright.serve.capture import Capture, read_rows

ASK = [{"role": "user", "content": "where is my card"}]


def serve(tmp_path, folders):
    database = open_database(store_url(tmp_path / "server.sqlite"))
    for name, path in folders.items():
        add_release(database, "support", path, {"model": name}, who="me")
    put(database, 1, "production")
    put(database, 2, "shadow")
    live = Live(make_app(Hosting([]), database=database, capture=Capture(tmp_path / "kept")))
    return live, database


@pytest.fixture
def world(tmp_path):
    live, database = serve(tmp_path, make_adapters(tmp_path / "adapters", 2))
    yield live, tmp_path / "kept"
    live.stop()
    database.close()


def counted(live, wanted=1):
    """Outcomes of the shadow, once there are so many."""
    until = time.monotonic() + 30
    while True:
        text = requests.get(f"{live.url}/metrics", timeout=30).text
        found = {}
        for line in text.splitlines():
            if line.startswith("tunewright_shadow_requests_total{"):
                found[line.split('outcome="')[1].split('"')[0]] = float(line.rpartition(" ")[2])
        if sum(found.values()) >= wanted:
            return found
        assert time.monotonic() < until, found
        time.sleep(0.1)


def ask(client, **more):
    return client.chat.completions.create(
        model="support", messages=ASK, max_tokens=16, temperature=0, **more
    )


def test_the_shadow_answers_nobody_and_is_compared(world):
    live, kept = world
    client = client_of(live)
    raw = client.chat.completions.with_raw_response.create(
        model="support", messages=ASK, max_tokens=16, temperature=0
    )
    assert raw.headers["x-tunewright-release"] == "support@1"
    told = raw.parse()
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in ask(client, stream=True))
    assert streamed == told.choices[0].message.content
    alone = (
        client.chat.completions.create(
            model="support@2", messages=ASK, max_tokens=16, temperature=0
        )
        .choices[0]
        .message.content
    )
    assert alone != streamed
    assert counted(live, 2) == {"other": 2.0}
    live.stop()
    rows = read_rows(kept / "shadow")
    assert [row["answer"] for row in rows] == [alone, alone]
    assert {row["release"] for row in rows} == {"support@2"} and rows[0]["id"] == told.id
    assert {row["release"] for row in read_rows(kept)} == {"support@1", "support@2"}


def test_more_than_a_few_at_a_time_are_left_out(world, monkeypatch):
    live, _ = world
    monkeypatch.setattr(mirror, "AT_ONCE", 0)
    ask(client_of(live))
    assert counted(live) == {"left out": 1.0}


def test_a_shadow_that_fails_fails_nobody(world, monkeypatch):
    live, kept = world

    async def broken(self, shadow, body):
        raise RuntimeError("no")

    monkeypatch.setattr(mirror.Mirror, "_write", broken)
    assert ask(client_of(live)).choices[0].message.content is not None
    assert counted(live) == {"failed": 1.0}
    live.stop()
    (row,) = read_rows(kept / "shadow")
    assert row["failed"] == "RuntimeError: no" and "answer" not in row


def test_shadow_decisions(tmp_path):
    bert = make_tiny("bert", tmp_path / "bert")
    folders = {name: tune(tmp_path, name, bert, "classify", "full", seed=seed)
               for name, seed in (("a", 3), ("b", 4))}  # fmt: skip
    live, database = serve(tmp_path, folders)
    texts = ["my card", "my delivery", "my account"]
    body = {"model": "support", "input": texts}
    said = requests.post(f"{live.url}/v1/classify", json=body, timeout=60).json()
    shadow = requests.post(
        f"{live.url}/v1/classify", json={**body, "model": "support@2"}, timeout=60
    ).json()
    same = sum(a["label"] == b["label"] for a, b in zip(said["data"], shadow["data"], strict=True))
    found = counted(live, 3)
    assert found.get("same", 0) == same and sum(found.values()) == 3
    live.stop(), database.close()
    lines = (tmp_path / "kept" / "shadow").glob("*.jsonl")
    ids = {json.loads(line)["id"] for path in lines for line in path.read_text().splitlines()}
    assert ids == {f"{said['id']}-{number}" for number in range(3)}
    assert threading.active_count() < 100
