"""Releases under load: promoted, put in canary, rolled back; no request fails."""

import itertools
import threading
import time

import openai
import pytest
from tests.api.conftest import Live
from tests.test_hosting import make_adapters

from postgres_server import store_url
from tunewright.api.app import make_app
from tunewright.database.engine import open_database
from tunewright.hosting import Hosting
from tunewright.releases.board import add_release, move_release, roll_back
from tunewright.releases.live import LiveReleases

ASK = [{"role": "user", "content": "where is my card"}]


@pytest.fixture
def world(tmp_path):
    adapters = make_adapters(tmp_path / "adapters", 3)
    database = open_database(store_url(tmp_path / "server.sqlite"))
    for name, path in adapters.items():
        add_release(database, "support", path, {"model": name}, who="me")
    put(database, 1, "production")
    hosting = Hosting([], max_adapters=2)
    live = Live(make_app(hosting, database=database))
    yield live, database
    live.stop()
    database.close()


def put(database, version, stage, **more):
    move_release(database, "support", version, stage, who="me", why="test", **more)


def client_of(live):
    return openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0)


def ask(client, user="ann"):
    return client.chat.completions.with_raw_response.create(
        model="support", messages=ASK, max_tokens=24, temperature=0, user=user
    )


def test_swaps_under_load_fail_no_request(world):
    live, database = world
    stop, errors, seen = threading.Event(), [], []

    def load(number):
        client = client_of(live)
        for turn in itertools.count():
            if stop.is_set():
                return
            try:
                reply = ask(client, user=f"{number}-{turn}")
                text = reply.parse().choices[0].message.content
                seen.append((reply.headers["x-tunewright-release"], text))
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=load, args=(number,)) for number in range(8)]
    [thread.start() for thread in threads]
    for step in (
        lambda: put(database, 2, "canary", share=0.5),
        lambda: put(database, 2, "production"),
        lambda: put(database, 3, "production"),
        lambda: roll_back(database, "support", who="me"),
    ):
        time.sleep(0.8)
        step()
    time.sleep(1.2)
    stop.set()
    [thread.join() for thread in threads]
    assert not errors
    answers = {}
    for release, text in seen:
        answers.setdefault(release, set()).add(text)
    assert set(answers) == {"support@1", "support@2", "support@3"}
    assert all(len(texts) == 1 for texts in answers.values())  # each version its own answer
    assert seen[-1][0] == "support@2"


def test_a_user_stays_with_the_same_version_and_models_are_listed(world):
    live, database = world
    put(database, 2, "canary", share=0.5)
    time.sleep(1.5)
    client = client_of(live)
    found = {user: {ask(client, user).headers["x-tunewright-release"] for _ in range(3)}
             for user in map(str, range(12))}  # fmt: skip
    assert all(len(versions) == 1 for versions in found.values())
    assert set.union(*found.values()) == {"support@1", "support@2"}
    listed = {model.id for model in client.models.list()}
    assert {"support", "support@1", "support@2"} <= listed
    assert client.models.retrieve("support").production == "support@1"


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_in_place(tmp_path):
    adapters = make_adapters(tmp_path / "adapters", 2)
    database = open_database(store_url(tmp_path / "server.sqlite"))
    for name, path in adapters.items():
        add_release(database, "support", path, {"model": name}, who="me")
    put(database, 1, "production")
    hosting = Hosting([])
    live = LiveReleases(hosting, database)
    live.refresh()
    weights = tmp_path / "adapters" / "a1" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-200])
    put(database, 2, "production")
    live.refresh()
    assert live.choose("support", "x").id == "support@1"
    assert live.faults["support"]
    assert "support@2" not in hosting.models
    hosting.close()
    database.close()


def test_a_version_chosen_just_before_a_swap_still_opens(tmp_path, monkeypatch):
    adapters = make_adapters(tmp_path / "adapters", 2)
    database = open_database(store_url(tmp_path / "server.sqlite"))
    for name, path in adapters.items():
        add_release(database, "support", path, {"model": name}, who="me")
    put(database, 1, "production")
    hosting = Hosting([])
    live = LiveReleases(hosting, database)
    live.refresh()
    chosen = live.choose("support", "x").id
    put(database, 2, "production")
    live.refresh()
    live._let_leave()
    assert hosting.open(chosen) is not None and live.choose("support", "x").id == "support@2"
    monkeypatch.setattr("tunewright.releases.live.LEAVE_AFTER_S", 0.0)
    live._let_leave()
    assert chosen not in hosting.models and "support@2" in hosting.models
    hosting.close()
    database.close()
