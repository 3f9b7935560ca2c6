"""Requests that nobody should send: bodies, queries and paths broken at random, by a seed."""

from __future__ import annotations

import json
import random
import string
from urllib.parse import quote

JOBS = "/v1/fine_tuning/jobs"
VALUES = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**70, 1e308, 0.5, "", "a", "auto", "x" * 300, "\0", "ü" * 70,
    "../../etc/passwd", "%00", "'; DROP TABLE jobs; --", "\ud800", [], {}, [[]], {"a": {"b": [1]}}, "null",
    "file-x", "gpt-4o-mini", "embedded:minilm", "ft:x", ["a"] * 50, {"type": "dpo"}, {"k": None}, "1",
)  # fmt: skip
BODIES = {
    ("POST", JOBS): {
        "model": "gpt-4o-mini", "training_file": "FILE", "validation_file": None, "suffix": "s", "seed": 1,
        "metadata": {"a": "b"}, "integrations": None, "priority": 1,
        "method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.1, "n_epochs": "auto"}}},
        "hyperparameters": {"batch_size": 4, "learning_rate_multiplier": 1.0},
    },
    ("POST", "/v1/uploads"): {
        "filename": "a", "purpose": "batch", "bytes": 10, "mime_type": "x",
        "expires_after": {"anchor": "created_at", "seconds": 3600},
    },
    ("POST", "/v1/uploads/UPLOAD/complete"): {"part_ids": ["part_x"], "md5": None},
    ("POST", "/v1/fine_tuning/checkpoints/NAME/permissions"): {"project_ids": ["p"]},
    ("POST", "/v1/chat/completions"): {"model": "m", "messages": [{"role": "user", "content": "x"}]},
    ("POST", "/v1/fine_tuning/alpha/graders/validate"): {"grader": {
        "type": "score_model", "name": "s", "model": "gpt-4o-mini", "range": [0, 1],
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "{{item.a}}"}]}],
        "sampling_params": {"seed": 1, "temperature": 1.0, "max_completions_tokens": 5}}},
    ("POST", "/v1/fine_tuning/alpha/graders/run"): {"model_sample": '{"a": [1]}', "item": {"a": {"b": 1}},
        "grader": {"type": "multi", "name": "m", "calculate_output": "a + max(b, 0.5)", "graders": {
            "a": {"type": "string_check", "name": "a", "operation": "eq", "reference": "{{item.a.b}}",
                  "input": "{{sample.output_json.a[0]}}"},
            "b": {"type": "text_similarity", "name": "b", "input": "{{sample.output_text}}",
                  "reference": "x", "evaluation_metric": "bleu"}}}},
    ("POST", "/v1/evals"): {"name": "e", "metadata": {"a": "b"}, "testing_criteria": [
        {"type": "string_check", "name": "a", "operation": "eq", "reference": "{{item.a}}", "input": "x"}],
        "data_source_config": {"type": "custom", "item_schema": {"type": "object", "x": 1.0}}},
    ("POST", "/v1/evals/ID/runs"): {"name": "r", "metadata": None, "data_source": {
        "type": "completions", "model": "gpt-4o-mini", "sampling_params": {"temperature": 1.0},
        "source": {"type": "file_content", "content": [{"item": {"a": 1}, "sample": {"output_text": "x"}}]},
        "input_messages": {"type": "template", "template": [{"role": "user", "content": "{{item.a}}"}]}}},
}  # fmt: skip
READS = (
    "/v1/files", "/v1/files/ID", "/v1/files/ID/content", JOBS, f"{JOBS}/ID", f"{JOBS}/ID/events",
    f"{JOBS}/ID/checkpoints", f"{JOBS}/ID/report", f"{JOBS}/ID/card.json", "/v1/models", "/v1/models/ID",
    "/v1/fine_tuning/checkpoints/ID/permissions", "/v1/evals", "/v1/evals/ID", "/v1/evals/ID/runs",
    "/v1/evals/ID/runs/ID", "/v1/evals/ID/runs/ID/output_items",
)  # fmt: skip
DELETES = (
    "/v1/evals/ID/runs/ID",
    "/v1/evals/ID",
    "/v1/files/ID",
    "/v1/models/ID",
    "/v1/fine_tuning/checkpoints/ID/permissions/ID",
)
CHANGES = tuple(f"{JOBS}/ID/{what}" for what in ("cancel", "pause", "resume"))
QUERIES = ("after", "limit", "order", "purpose", "metadata[a]", "metadata", "stream", "project_id")


def make(dice: random.Random, known: list[str]):
    """(method, path, headers, body) of one request. known: ids that exist, and FILE's."""
    kind = dice.random()
    if kind < 0.55:
        (method, path), body = dice.choice(list(BODIES.items()))
        text = json.dumps(body).replace("FILE", known[0])
        data = _encode(_break(json.loads(text), dice), dice)
    elif kind < 0.65:
        method, path, data = "POST", dice.choice(["/v1/files", "/v1/uploads/ID/parts"]), _form(dice)
    elif kind < 0.8:
        method, path, data = "GET", dice.choice(READS), b""
    elif kind < 0.9:
        method, path, data = "POST", dice.choice(CHANGES), dice.choice([b"", b"{}", b"[", b"null"])
    else:
        method, path, data = "DELETE", dice.choice(DELETES), b""
    for word in ("UPLOAD", "NAME", "ID"):
        path = path.replace(word, _segment(dice, known))
    if method == "GET" and dice.random() < 0.7:
        pairs = [f"{quote(dice.choice(QUERIES))}={_segment(dice, known)}" for _ in range(2)]
        path += "?" + "&".join(pairs)
        path = path.replace("stream=true", "stream=false").replace("stream=1", "stream=0")
    kinds = ["application/json"] * 6 + ["text/html", "multipart/form-data; boundary=b"]
    headers = {"Content-Type": dice.choice(kinds) if b"--b" not in data[:9] else kinds[-1]}
    if dice.random() < 0.1:
        headers["Idempotency-Key"] = dice.choice(["", "k", "x" * 300])
    if dice.random() < 0.2:
        headers["x-stainless-retry-count"] = dice.choice(["1", "-1", "a", "9" * 40, "²"])
    return method, path, {k: v.encode("latin-1", "replace") for k, v in headers.items()}, data


def _segment(dice, known):
    if dice.random() < 0.5:
        return quote(dice.choice(known), safe="")
    value = dice.choice(VALUES)
    text = value if isinstance(value, str) else json.dumps(value)
    return quote(text[:200], safe="", errors="replace") or "x"


def _break(value, dice, depth=0):
    """The value with one place changed, lost or added."""
    if dice.random() < 0.1:
        return value
    if isinstance(value, dict) and value and (depth == 0 or dice.random() < 0.7):
        key, how = dice.choice(list(value)), dice.random()
        if how < 0.15:
            return {k: v for k, v in value.items() if k != key}
        if how < 0.25:
            return {**value, "".join(dice.choices(string.printable, k=5)): dice.choice(VALUES)}
        return {**value, key: _break(value[key], dice, depth + 1)}
    return dice.choice(VALUES)


def _encode(value, dice):
    data = json.dumps(value).encode()
    how = dice.random()
    if how < 0.05:
        return data[: dice.randrange(len(data) + 1)]
    if how < 0.1 and data:
        place = dice.randrange(len(data))
        return data[:place] + bytes([dice.randrange(256)]) + data[place + 1 :]
    if how < 0.12:
        return b"[" * 5000
    if how < 0.14:
        return data.replace(b"1", b"NaN")
    return data


def _form(dice):
    name = dice.choice(["file", "data", "purpose", "", 'a"b'])
    purpose = dice.choice(["fine-tune", "batch", "x", "\0"])
    content = dice.choice(['{"messages": []}', "{}", "", "\0", "[" * 3000, '{"prompt": "a"}\n\n'])
    data = (
        f'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n{purpose}\r\n--b\r\n'
        f'Content-Disposition: form-data; name="{name}"; filename="../a.jsonl"\r\n\r\n{content}\r\n--b--\r\n'
    ).encode()
    return data if dice.random() < 0.8 else data[: dice.randrange(len(data))]
