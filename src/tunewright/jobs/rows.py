"""Looking at the rows of a training file, line by line, as OpenAI's service does.

Never holds more than one line. The first fault decides: {"messages": [...]} rows, preference rows
and prompt-completion rows are known; every other row is refused with its line. Names of the faults
are those of OpenAI's cookbook on preparing chat data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_LINE_BYTES = 16 << 20
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
MESSAGE_KEYS = frozenset(
    {"role", "content", "name", "function_call", "tool_calls", "tool_call_id", "weight", "refusal",
     "audio"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Checked:
    """What a file holds. fault: one line naming the line, None for a sound file.

    shape "prompt": conversations that none of the assistant's turns answers (reinforcement).
    """

    num_rows: int
    shape: str | None
    fault: str | None = None


UNANSWERED = "example_missing_assistant_message: no message of the assistant"


class _FaultError(ValueError):
    """What is wrong with a row."""


def check_rows(path: Path, *, unanswered: bool = False) -> Checked:
    """Look at every line of a JSONL file.

    unanswered: conversations need no answer, and those with and without one may stand together.
    """
    number, shape = 0, None
    with open(path, "rb") as file:
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            try:
                if len(line) > MAX_LINE_BYTES:
                    raise _FaultError(f"longer than {MAX_LINE_BYTES} bytes")
                found = _check_line(line, number == 1)
                if unanswered and found == "chat":
                    found = "prompt"
                if {shape, found} == {"chat", "prompt"}:
                    raise _FaultError(UNANSWERED)
                if shape is not None and found != shape:
                    raise _FaultError(f"a {found} row among {shape} rows; keep to one format")
                shape = found
            except _FaultError as fault:
                return Checked(number, shape, f"Line {number}: {fault}")
    if number == 0:
        return Checked(0, None, "The file is empty.")
    return Checked(number, shape)


def first_line_fault(path: Path) -> str | None:
    """The message that clients know for a file that is not JSONL; None where the start is right."""
    with open(path, "rb") as file:
        line = file.readline(MAX_LINE_BYTES)
    try:
        value = _parse(line, True)
    except _FaultError:
        value = None
    if isinstance(value, dict):
        return None
    start = line[:40].decode("utf-8", "replace").strip()
    return (
        "Expected file to have JSONL format, where every line is a JSON dictionary. Line 1 is not "
        f'a dictionary (HINT: line starts with: "{start}...").'
    )


def _parse(line: bytes, first: bool) -> Any:
    try:
        text = line.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        raise _FaultError(f"not UTF-8 (byte {error.start})") from None
    if not text.strip():
        raise _FaultError("empty line; remove it")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _FaultError(f"invalid JSON ({error})") from None


def _check_line(line: bytes, first: bool) -> str:
    row = _parse(line, first)
    if not isinstance(row, dict):
        raise _FaultError("data_type: not a JSON dictionary")
    for shape, belongs, check in _SHAPES:
        if belongs(row):
            check(row)
            return "prompt" if shape == "chat" and not _is_answered(row) else shape
    raise _FaultError("missing_messages_list: there is no `messages`, `prompt` or `input` key")


def _check_chat(row: Mapping[str, Any]) -> None:
    _check_messages(row["messages"])


def _is_answered(row: Mapping[str, Any]) -> bool:
    return any(message["role"] == "assistant" for message in row["messages"])


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise _FaultError("missing_messages_list: `messages` is not a list with entries")
    for place, message in enumerate(messages):
        where = f"messages[{place}]"
        if not isinstance(message, dict) or "role" not in message:
            raise _FaultError(f"{where}: message_missing_key: no `role`")
        unknown = sorted(message.keys() - MESSAGE_KEYS)
        if unknown:
            raise _FaultError(f"{where}: message_unrecognized_key: {unknown[0][:40]!r}")
        if message["role"] not in ROLES:
            raise _FaultError(f"{where}: unrecognized_role: {str(message['role'])[:40]!r}")
        _check_content(message, where)
        if "weight" in message and message["weight"] not in (0, 1, None):
            raise _FaultError(f"{where}: weight must be 0 or 1")


def _check_content(message: Mapping[str, Any], where: str) -> None:
    content = message.get("content")
    calls = message.get("tool_calls") or message.get("function_call")
    if calls is not None and not isinstance(calls, list | dict):
        raise _FaultError(f"{where}: tool_calls must be a list")
    if content is None:
        if not calls:
            raise _FaultError(f"{where}: missing_content")
    elif isinstance(content, list):
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind != "text" or not isinstance(part.get("text"), str):
                raise _FaultError(f"{where}: part of type {str(kind)[:40]!r}; only text is learned")
    elif not isinstance(content, str):
        raise _FaultError(f"{where}: missing_content: `content` is not a text")


def _check_preference(row: Mapping[str, Any]) -> None:
    given = row["input"]
    if not isinstance(given, dict) or "messages" not in given:
        raise _FaultError("missing_messages_list: `input` has no `messages`")
    _check_messages(given["messages"])
    old = "preferred_completion" in row
    for side in ("preferred", "non_preferred"):
        key = f"{side}_completion" if old else f"{side}_output"
        answers = row.get(key)
        if answers is None:
            raise _FaultError(f"no `{key}`")
        _check_messages(answers)
        if not any(message["role"] == "assistant" for message in answers):
            raise _FaultError(f"example_missing_assistant_message: none in `{key}`")


def _check_completion(row: Mapping[str, Any]) -> None:
    for key in ("prompt", "completion"):
        if not isinstance(row.get(key), str):
            raise _FaultError(f"`{key}` is not a text")


_SHAPES: tuple[tuple[str, Callable[[Any], bool], Callable[[Any], None]], ...] = (
    ("chat", lambda row: "messages" in row, _check_chat),
    ("preference", lambda row: "input" in row, _check_preference),
    ("completion", lambda row: "prompt" in row, _check_completion),
)
