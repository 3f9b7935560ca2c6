"""Calls of tools in answers: what models write in the forms of their templates, as OpenAI's API has
it.

Read are the forms of Hermes and Qwen (<tool_call>{...}</tool_call>), Mistral ([TOOL_CALLS] [...]),
Llama 3 (<|python_tag|>{...}, <function=name>{...}</function>) and an answer that is nothing but
JSON of a call. Only tools that the request offers are called; whatever else stays text.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunewright.api.errors import ApiError

OPENERS = ("<tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "<function=")
_TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_NAMED = re.compile(r"<function=([^>\s]+)>(.*?)(?:</function>|\Z)", re.DOTALL)
MAX_TOOLS = 128
NO_PARAMETERS: Mapping[str, Any] = {
    "type": "object", "properties": {}, "additionalProperties": False
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Call:
    """One call. arguments: JSON text, as clients parse it."""

    name: str
    arguments: str

    def shown(self) -> dict[str, Any]:
        """As clients know it, under a new id."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class Offer:
    """The tools of a request. forced: the answer must be a call; parallel: may be several."""

    parameters: Mapping[str, Mapping[str, Any]]
    forced: bool = False
    parallel: bool = True

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of one call, for answers that must be one."""
        calls = [
            {
                "type": "object",
                "properties": {"name": {"const": name}, "arguments": dict(parameters)},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for name, parameters in self.parameters.items()
        ]
        return calls[0] if len(calls) == 1 else {"anyOf": calls}


def read_offer(
    tools: Sequence[Mapping[str, Any]] | None, choice: Any, parallel: bool | None
) -> Offer | None:
    """What may be called; None for plain text. Raises ApiError naming the field at fault."""
    if not tools:
        if choice not in (None, "none", "auto"):
            raise ApiError(400, "tool_choice: there are no tools", param="tool_choice")
        return None
    if len(tools) > MAX_TOOLS:
        raise ApiError(400, f"tools: at most {MAX_TOOLS}", param="tools")
    known = {}
    for number, tool in enumerate(tools):
        function = tool.get("function")
        name = function.get("name") if isinstance(function, Mapping) else None
        if tool.get("type") != "function" or not isinstance(function, Mapping):
            text = f"tools.{number}: give {{'type': 'function', 'function': {{...}}}}"
            raise ApiError(400, text, param=f"tools.{number}")
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name):
            text = f"tools.{number}.function.name: letters, digits, _ and -, at most 64"
            raise ApiError(400, text, param=f"tools.{number}.function.name")
        parameters = function.get("parameters") or NO_PARAMETERS
        if not isinstance(parameters, Mapping):
            text = f"tools.{number}.function.parameters: give a JSON schema"
            raise ApiError(400, text, param=f"tools.{number}.function.parameters")
        known[name] = parameters
    if choice == "none":
        return None
    if choice in (None, "auto", "required"):
        return Offer(known, choice == "required", parallel is not False)
    function = choice.get("function") if isinstance(choice, Mapping) else None
    wanted = function.get("name") if isinstance(function, Mapping) else None
    if wanted not in known:
        text = f"tool_choice: give none, auto, required or one of {', '.join(known)}"
        raise ApiError(400, text, param="tool_choice")
    return Offer({wanted: known[wanted]}, True, False)


def find_calls(text: str, offer: Offer) -> tuple[str, list[Call]]:
    """(the text before the first call, the calls); all of the text and none where there is none."""
    where = min((at for at in map(text.find, OPENERS) if at >= 0), default=None)
    calls = _bare(text) if where is None else _marked(text[where:])
    calls = [call for call in calls if call.name in offer.parameters]
    if not calls:
        return text, []
    before = "" if where is None else text[:where].rstrip()
    return before, calls if offer.parallel else calls[:1]


class Holding:
    """Text as it comes in pieces; what may be the beginning of a call is held back."""

    def __init__(self, offer: Offer) -> None:
        self.offer, self._held, self._said = offer, "", False

    def add(self, piece: str) -> str:
        """What can be told now."""
        self._held += piece
        keep = self._first_doubt()
        told, self._held = self._held[:keep], self._held[keep:]
        self._said = self._said or bool(told.strip())
        return told

    def end(self) -> tuple[str, list[Call]]:
        """(the rest of the text, the calls)."""
        return find_calls(self._held, self.offer)

    def _first_doubt(self) -> int:
        """Where a call may begin; the length of what is held where none does."""
        held = self._held
        if not self._said:
            bare = held.lstrip()
            if not bare or bare[0] in "{[":
                return 0
        for at, letter in enumerate(held):
            if letter in "<[":
                rest = held[at:]
                if any(rest.startswith(mark) or mark.startswith(rest) for mark in OPENERS):
                    return at
        return len(held)


def _marked(text: str) -> list[Call]:
    """Calls behind one of the openers."""
    for mark in ("[TOOL_CALLS]", "<|python_tag|>"):
        if text.startswith(mark):
            return _bare(text.removeprefix(mark))
    calls: list[Call] = []
    for part in _TAGGED.findall(text) or [text]:
        if part.lstrip().startswith("<function="):
            calls += [
                Call(name, arguments)
                for name, given in _NAMED.findall(part)
                if (arguments := _arguments(_read(given) if given.strip() else {})) is not None
            ]
        else:
            calls += _bare(part)
    return calls


def _bare(text: str) -> list[Call]:
    """Calls of a text that is JSON of one, or of several, from its first letter to its last."""
    text = text.strip()
    if not text or text[0] not in "{[":
        return []
    read = _read(text)
    if read is None and ";" in text:  # Llama writes several so
        read = [_read(part) for part in text.split(";")]
    calls = [_call(item) for item in (read if isinstance(read, list) else [read])]
    return [call for call in calls if call is not None] if all(calls) else []


def _call(item: Any) -> Call | None:
    if not isinstance(item, dict):
        return None
    item = item.get("function") if isinstance(item.get("function"), dict) else item
    name = item.get("name")
    given = next((item[key] for key in ("arguments", "parameters") if key in item), None)
    arguments = _arguments(given)
    return Call(name, arguments) if isinstance(name, str) and arguments is not None else None


def _arguments(given: Any) -> str | None:
    """Arguments as JSON text of an object; None for what is none."""
    if isinstance(given, str):
        given = _read(given)
    return json.dumps(given, ensure_ascii=False) if isinstance(given, dict) else None


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
