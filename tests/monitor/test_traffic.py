"""Logs of every kind become the same requests; feedback finds its request."""

from __future__ import annotations

import json
import math

import pytest

from tunewright.errors import DataError
from tunewright.monitor.traffic import read_traffic


def write(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_own_lines_with_feedback_that_came_later(tmp_path):
    log = write(
        tmp_path / "log.jsonl",
        {"id": "b", "time_s": 20, "input": "two", "answer": "x", "confidence": 0.5, "client": "c1"},
        {"id": "a", "timestamp": "1970-01-01T00:00:10Z", "text": "one", "prediction": "y"},
        {"request_id": "b", "label": "z"},
        {"id": "a", "rating": -1},
        {"id": "gone", "label": "z"},
    )
    first, second = read_traffic(log)
    assert (first.id, first.input, first.answer, first.rating) == ("a", "one", "y", -1)
    assert (second.label, second.label_by, second.client) == ("z", "person", "c1")
    assert first.label is None


def test_openai_pairs_and_batch_lines(tmp_path):
    reply = {
        "id": "chatcmpl-1", "created": 5, "model": "m",
        "choices": [{"message": {"role": "assistant", "content": "hello"},
                     "logprobs": {"content": [{"logprob": math.log(0.5)}, {"logprob": 0.0}]}}],
    }  # fmt: skip
    asked = {"model": "m", "messages": [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]}]}  # fmt: skip
    log = write(
        tmp_path / "log.jsonl",
        {"request": asked, "response": reply},
        {"custom_id": "r2", "request": {"body": asked},
         "response": {"status_code": 500, "body": {}}},
        {**reply, "id": "chatcmpl-3", "messages": asked["messages"]},
    )  # fmt: skip
    found = {item.id: item for item in read_traffic(log)}
    assert set(found) == {"chatcmpl-1", "r2", "chatcmpl-3"}
    assert {item.input for item in found.values()} == {"hi"}
    assert found["chatcmpl-1"].confidence == pytest.approx(math.sqrt(0.5))
    assert found["r2"].failed == "status 500"
    assert found["chatcmpl-3"].answer == "hello"


def test_genai_spans_new_and_old_and_whole_documents(tmp_path):
    messages = json.dumps([{"role": "system", "parts": [{"type": "text", "content": "s"}]},
                           {"role": "user", "parts": [{"type": "text", "content": "where?"}]}])  # fmt: skip
    said = json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": "here"}]}])
    span = {
        "name": "chat m", "spanId": "s1", "startTimeUnixNano": "1000000000",
        "endTimeUnixNano": "1500000000",
        "attributes": [
            {"key": "gen_ai.request.model", "value": {"stringValue": "m"}},
            {"key": "gen_ai.input.messages", "value": {"stringValue": messages}},
            {"key": "gen_ai.output.messages", "value": {"stringValue": said}},
        ],
    }  # fmt: skip
    old = {
        "name": "chat m", "span_id": "s2", "attributes": {"gen_ai.request.model": "m"},
        "start_time": "1970-01-01T00:00:02Z",
        "events": [{"name": "gen_ai.user.message", "attributes": {"content": "when?"}},
                   {"name": "gen_ai.choice", "attributes": {"message": {"content": "now"}}}],
    }  # fmt: skip
    other = {"name": "GET /", "spanId": "s3", "attributes": {"http.method": "GET"}}
    whole = tmp_path / "otlp.json"
    whole.write_text(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span, other]}]}]},
                                indent=1))  # fmt: skip
    (item,) = read_traffic(whole)
    assert (item.input, item.answer, item.release) == ("where?", "here", "m")
    assert item.latency_s == pytest.approx(0.5)
    (item,) = read_traffic(write(tmp_path / "old.jsonl", old, other))
    assert (item.id, item.input, item.answer, item.time_s) == ("s2", "when?", "now", 2.0)


def test_a_line_being_written_is_left_and_a_broken_one_is_named(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"id": "a", "input": "one"}\n{"id": "b", "inp')
    assert [item.id for item in read_traffic(log)] == ["a"]
    log.write_text('{"id": "a", "input": "one"}\nnot json\n{"id": "b", "input": "two"}\n')
    with pytest.raises(DataError, match="log.jsonl:2"):
        read_traffic(log)
    with pytest.raises(DataError, match="needed is one of"):
        read_traffic(write(log, {"foo": 1}))


def test_equal_ids_stay_apart(tmp_path):
    log = write(tmp_path / "l.jsonl", {"id": "a", "input": "1"}, {"id": "a", "input": "2"})
    assert [item.id for item in read_traffic(log)] == ["a", "a-2"]


def test_a_folder_and_further_files_are_one_log(tmp_path):
    """As `serve --capture` leaves it, with labels that a person filled in beside it."""
    folder = tmp_path / "traffic"
    folder.mkdir()
    write(folder / "traffic-2026-01-02.jsonl", {"id": "b", "time_s": 20, "input": "two"})
    write(folder / "traffic-2026-01-01.jsonl", {"id": "a", "time_s": 10, "input": "one"})
    labels = write(
        tmp_path / "review.jsonl",
        {"id": "b", "input": "two", "answer": "x", "weight": 2.0, "label": "card"},
        {"id": "a", "input": "one", "answer": "x", "weight": 2.0, "label": None},
    )
    first, second = read_traffic(folder, labels)
    assert (first.id, first.label, second.label) == ("a", None, "card")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no request in it"):
        read_traffic(tmp_path / "empty")
