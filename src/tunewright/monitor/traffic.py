"""Logs of traffic as Requests: our own lines, OpenAI-style logs, OpenTelemetry GenAI spans.

One JSON document a line (JSONL), or one whole OTLP/JSON document. The kind of each line is told
from its keys. Lines of later feedback ({"id", "label" or "rating"}) are joined to their requests.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from tunewright.errors import DataError
from tunewright.records import Output, Request

INPUT_KEYS = ("input", "text", "prompt", "question", "query")
ANSWER_KEYS = ("answer", "prediction", "output", "response", "completion")
TIME_KEYS = ("time_s", "timestamp", "time", "created", "created_at")
FEEDBACK_KEYS = ("label", "correction", "rating", "outcome")
MILLISECONDS = 1e11
"""Unix times above this are milliseconds: in seconds they lie beyond the year 5000."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """What was heard of a request later."""

    id: str
    label: Output = None
    label_by: str | None = None
    rating: float | None = None


def read_traffic(path: Path, *more: Path) -> list[Request]:
    """All requests of a log, feedback joined, in order of time (file order where none is told).

    path: a file, or a folder of them, as `serve --capture` leaves it. more: further logs, of
    feedback too. Raises DataError naming the line that cannot be read.
    """
    requests: dict[str, Request] = {}
    heard: list[Feedback] = []
    for place, document in chain.from_iterable(map(read_lines, (path, *more))):
        for item in _items(document, place):
            if isinstance(item, Feedback):
                heard.append(item)
                continue
            known = requests.get(item.id)
            if known is not None and known.input == item.input and item.time_s == 0.0:
                # A row that was sent for review and has come back, perhaps with a label.
                heard.append(Feedback(item.id, item.label, item.label_by))
                continue
            name, again = item.id, 2
            while name in requests:
                name, again = f"{item.id}-{again}", again + 1
            requests[name] = replace(item, id=name)
    for feedback in heard:
        if feedback.id in requests:
            requests[feedback.id] = join_feedback(requests[feedback.id], feedback)
    if not requests:
        raise DataError(f"{path}: no request in it; see docs/watch.md for the kinds of log")
    return sorted(requests.values(), key=lambda item: item.time_s)


def join_feedback(request: Request, feedback: Feedback) -> Request:
    """The request with what was heard of it."""
    changes: dict[str, Any] = {}
    if feedback.label is not None:
        changes = {"label": feedback.label, "label_by": feedback.label_by or "person"}
    if feedback.rating is not None:
        changes["rating"] = feedback.rating
    return replace(request, **changes)


def read_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place, document) of every line, or of the whole file where that is one document; of a
    folder, of its .jsonl files in the order of their names.
    """
    if path.is_dir():
        for part in sorted(path.glob("*.jsonl")):
            yield from read_lines(part)
        return
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    for number, line in lines:
        try:
            document = json.loads(line)
        except ValueError as error:
            whole = _whole(text) if number == lines[0][0] else None
            if whole is not None:
                yield str(path), whole
                return
            if number == lines[-1][0] and len(lines) > 1:
                return  # a line that is being written
            raise DataError(
                f"{path}:{number}: not a line of JSON ({error}); write one request a line, as JSON"
            ) from error
        if not isinstance(document, dict):
            raise DataError(f"{path}:{number}: a line holds one JSON object; this is another value")
        yield f"{path}:{number}", document


def _whole(text: str) -> Mapping[str, Any] | None:
    try:
        document = json.loads(text)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _items(document: Mapping[str, Any], place: str) -> Iterable[Request | Feedback]:
    for fits, read in KINDS.values():
        if fits(document):
            return read(document, place)
    found = ", ".join(map(str, list(document)[:6]))
    raise DataError(
        f"{place}: not a request (keys {found}); needed is one of "
        f"{', '.join(INPUT_KEYS)}, an OpenAI request with its response, or a GenAI span"
    )


def _own(line: Mapping[str, Any], place: str) -> list[Request | Feedback]:
    text = next((line[key] for key in INPUT_KEYS if line.get(key) is not None), None)
    if text is None:
        return [_feedback(line)]
    if isinstance(text, list):
        text = _last_user(text)
    answer = next((line[key] for key in ANSWER_KEYS if line.get(key) is not None), None)
    label = next((line[key] for key in ("label", "correction") if line.get(key) is not None), None)
    shares = line.get("probabilities")
    return [
        Request(
            id=str(line.get("id") or line.get("request_id") or place),
            time_s=_time(line),
            input=str(text),
            answer=_output(answer),
            confidence=_number(line.get("confidence", line.get("score"))),
            probabilities=tuple(float(v) for v in shares) if isinstance(shares, list) else None,
            latency_s=_number(line.get("latency_s")),
            release=_name(line.get("release") or line.get("model")),
            client=_name(line.get("client") or line.get("user")),
            failed=_name(line.get("failed") or line.get("error")),
            label=_output(label),
            label_by=_name(line.get("label_by")) or (None if label is None else "person"),
            rating=_number(line.get("rating")),
        )
    ]


def _feedback(line: Mapping[str, Any]) -> Feedback:
    label = next((line[k] for k in ("label", "correction", "outcome") if line.get(k) is not None),
                 None)  # fmt: skip
    return Feedback(
        id=str(line.get("request_id") or line.get("id")),
        label=_output(label),
        label_by=_name(line.get("label_by") or line.get("by")),
        rating=_number(line.get("rating")),
    )


def _openai(line: Mapping[str, Any], place: str) -> list[Request | Feedback]:
    """A request beside its response: logged pairs, the batch API's lines, stored completions."""
    asked = line.get("request") or line
    asked = asked.get("body", asked)
    given = line.get("response") or line
    status = given.get("status_code", 200)
    given = given.get("body", given) or {}
    choice = (given.get("choices") or [{}])[0]
    answer = (choice.get("message") or {}).get("content", choice.get("text"))
    messages = asked.get("messages") or asked.get("input") or asked.get("prompt") or ""
    text = _last_user(messages) if isinstance(messages, list) else str(messages)
    failed = None if status == 200 and answer is not None else f"status {status}"
    return [
        Request(
            id=str(given.get("id") or line.get("custom_id") or line.get("id") or place),
            time_s=_time(given) or _time(line),
            input=text,
            answer=answer,
            confidence=_mean_probability(choice.get("logprobs")),
            latency_s=_number(line.get("latency_s")),
            release=_name(given.get("model") or asked.get("model")),
            client=_name(asked.get("user") or asked.get("safety_identifier")),
            failed=failed,
        )
    ]


def _mean_probability(logprobs: Any) -> float | None:
    """exp of the mean log probability of the answer's tokens."""
    tokens = (logprobs or {}).get("content") or []
    values = [token["logprob"] for token in tokens if token.get("logprob") is not None]
    return math.exp(sum(values) / len(values)) if values else None


def _spans(line: Mapping[str, Any], place: str) -> list[Request | Feedback]:
    """OTLP/JSON, or one span a line; spans that are no call of a model are left out.

    Attribute names: OpenTelemetry semantic conventions for generative AI, gen_ai.*; messages stand
    in attributes (gen_ai.input.messages) or, in older versions, in events.
    """
    if "resourceSpans" in line:
        spans = [
            span
            for resource in line["resourceSpans"]
            for scope in resource.get("scopeSpans", ())
            for span in scope.get("spans", ())
        ]
    else:
        spans = [line]
    found = [_span(span, f"{place}, span {n}") for n, span in enumerate(spans, 1)]
    return [item for item in found if item is not None]


def _span(span: Mapping[str, Any], place: str) -> Request | None:
    given = _attributes(span.get("attributes"))
    if not any(key.startswith("gen_ai.") for key in given):
        return None
    asked = _messages(given.get("gen_ai.input.messages") or given.get("gen_ai.prompt"))
    said = _messages(given.get("gen_ai.output.messages") or given.get("gen_ai.completion"))
    for event in span.get("events") or ():
        inside = _attributes(event.get("attributes"))
        content = inside.get("content") or inside.get("gen_ai.prompt")
        if event.get("name") == "gen_ai.user.message" and content:
            asked.append(str(content))
        if event.get("name") == "gen_ai.choice":
            said += _messages(inside.get("message") or inside.get("gen_ai.completion") or content)
    if not asked:
        return None
    begin, end = (_nanoseconds(span, key) for key in ("start", "end"))
    return Request(
        id=str(
            given.get("gen_ai.response.id") or span.get("spanId") or span.get("span_id") or place
        ),
        time_s=begin,
        input=asked[-1],
        answer=said[-1] if said else None,
        latency_s=end - begin if end > begin else None,
        release=_name(given.get("gen_ai.response.model") or given.get("gen_ai.request.model")),
        client=_name(given.get("user.id") or given.get("enduser.id")),
        failed=_name(given.get("error.type")),
    )


def _attributes(given: Any) -> dict[str, Any]:
    """Attributes as a plain table, from OTLP's list of keys and typed values or from a table."""
    if isinstance(given, Mapping):
        return dict(given)
    table = {}
    for item in given or ():
        value = item.get("value")
        if isinstance(value, Mapping) and value:
            value = next(iter(value.values()))
        table[str(item.get("key"))] = value
    return table


def _messages(given: Any) -> list[str]:
    """The texts of messages: a plain text, or JSON of [{role, content or parts}]; users' own where
    roles are told, assistants' for outputs.
    """
    if given is None:
        return []
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            return [given]
    if isinstance(given, Mapping):
        given = [given]
    if not isinstance(given, list):
        return [str(given)]
    texts = []
    for message in given:
        if isinstance(message, str):
            texts.append(message)
        elif isinstance(message, Mapping) and message.get("role") != "system":
            texts.append(_content(message))
    return [text for text in texts if text]


def _last_user(messages: list[Any]) -> str:
    users = [m for m in messages if isinstance(m, Mapping) and m.get("role", "user") == "user"]
    if users:
        return _content(users[-1])
    return str(messages[-1]) if messages else ""


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content", message.get("parts"))
    if isinstance(content, list):
        parts = [p if isinstance(p, str) else str(p.get("text") or p.get("content") or "")
                 for p in content]  # fmt: skip
        return "\n".join(part for part in parts if part)
    return "" if content is None else str(content)


def _nanoseconds(span: Mapping[str, Any], which: str) -> float:
    for key in (f"{which}TimeUnixNano", f"{which}_time_unix_nano"):
        if span.get(key) is not None:
            return float(span[key]) / 1e9
    return _time({"timestamp": span.get(f"{which}_time")})


def _time(line: Mapping[str, Any]) -> float:
    value = next((line[key] for key in TIME_KEYS if line.get(key) is not None), None)
    if isinstance(value, (int, float)):
        return value / 1000 if value > MILLISECONDS else float(value)
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return 0.0
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return 0.0


def _output(value: Any) -> Output:
    if isinstance(value, list):
        return tuple(str(item) for item in value)
    return value if value is None or isinstance(value, (str, float)) else str(value)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _name(value: Any) -> str | None:
    return str(value) if value else None


def _is_openai(line: Mapping[str, Any]) -> bool:
    given = line.get("response")
    beside = isinstance(given, Mapping) and ("choices" in given or "body" in given)
    return beside or ("choices" in line and ("messages" in line or "request" in line))


def _is_span(line: Mapping[str, Any]) -> bool:
    return "resourceSpans" in line or (
        "attributes" in line and ("name" in line or "spanId" in line)
    )


def _is_own(line: Mapping[str, Any]) -> bool:
    if any(line.get(key) is not None for key in INPUT_KEYS):
        return True
    named = "id" in line or "request_id" in line
    return named and any(line.get(key) is not None for key in FEEDBACK_KEYS)


Reader = Callable[[Mapping[str, Any], str], list[Request | Feedback]]
KINDS: dict[str, tuple[Callable[[Mapping[str, Any]], bool], Reader]] = {
    "openai": (_is_openai, _openai),
    "spans": (_is_span, _spans),
    "own": (_is_own, _own),
}
