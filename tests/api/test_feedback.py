"""A server that keeps traffic: answers come with ids, feedback finds them, the log feeds `watch`."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest
from tests.api.conftest import Live

from tunewright.api.app import make_app
from tunewright.hosting import Hosting, find_served
from tunewright.monitor.traffic import read_traffic
from tunewright.serve.capture import Capture


def post(url: str, body: dict) -> tuple[int, dict]:
    asked = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.fixture
def keeping(tuned, tmp_path):
    capture = Capture(tmp_path / "traffic")
    server = Live(make_app(Hosting(find_served([tuned["labels"], tuned["one"]])), capture=capture))
    yield server, tmp_path / "traffic"
    server.stop()


def test_answers_and_feedback_reach_the_log(keeping):
    server, folder = keeping
    texts = ["question 1 about my card", "write to anna@example.com about my account"]
    status, answer = post(f"{server.url}/v1/classify", {"model": "labels", "input": texts})
    assert status == 200
    name, feedback = answer["id"], f"{server.url}/v1/feedback"
    assert post(feedback, {"request_id": f"{name}-1", "correction": "account"})[0] == 200
    _, talk = post(f"{server.url}/v1/chat/completions", {
        "model": "one", "max_tokens": 4, "messages": [{"role": "user", "content": "hello there"}],
    })  # fmt: skip
    for bad in ({"request_id": "x"}, {"request_id": "x", "rating": 7}, {"label": "card"},
                {"request_id": "x", "label": "a", "rating": 1}):  # fmt: skip
        assert post(feedback, bad)[0] in (400, 422)
    server.stop()
    (path,) = folder.glob("*.jsonl")
    found = {item.id: item for item in read_traffic(path)}
    assert found[f"{name}-0"].input == texts[0]
    assert len(found[f"{name}-0"].probabilities) == 3
    assert found[f"{name}-1"].label == "account"
    assert "anna@" not in path.read_text()
    said = found[talk["id"]]
    assert (said.input, said.answer) == ("hello there", talk["choices"][0]["message"]["content"])
    assert 0 < said.confidence <= 1


def test_without_capture_feedback_has_nowhere_to_go(tuned):
    server = Live(make_app(Hosting(find_served([tuned["labels"]]))))
    status, told = post(f"{server.url}/v1/feedback", {"request_id": "x", "rating": 1})
    server.stop()
    assert status == 404
    assert "--capture" in told["error"]["message"]
