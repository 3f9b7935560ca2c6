"""Row shapes that fine-tuning tools share: recognised by their keys, read into conversations.

Shapes: messages, sharegpt, openai-preference, preference, unpaired-preference, prompt-completion,
instruction, query-response, tokens. Plain tables are columns.py's work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tunewright.errors import DataError
from tunewright.records import Message

Row = Mapping[str, Any]
Role = Literal["system", "user", "assistant", "tool"]
ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "ipython": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "function_response": "tool",
}
ANSWERS = ("output", "response", "completion", "answer", "reply")
QUESTIONS = ("query", "question")
ANCHORS = ("anchor", "query", "question", "sentence1", "text1", "input")
POSITIVES = ("positive", "pos", "passage", "document", "sentence2", "text2", "answer", "output")
NEGATIVES = ("negative", "neg", "hard_negative", "rejected")
TAG_COLUMNS = ("ner_tags", "tags", "labels", "ner", "bio_tags", "tag", "label")
TOKEN_COLUMNS = ("tokens", "words")
# What an earlier description of OpenAI's preference rows called their answers.
OLD_SPELLING = ("preferred_completion", "non_preferred_completion")
# Which keys belong to a shape; used to tell a missing value from a different shape.
SHAPE_KEYS: dict[str, frozenset[str]] = {
    "messages": frozenset({"messages", "tools"}),
    "sharegpt": frozenset({"conversations", "conversation", "system", "tools"}),
    "openai-preference": frozenset(
        {"input", "preferred_output", "non_preferred_output", *OLD_SPELLING}
    ),
    "preference": frozenset({"prompt", "chosen", "rejected", "system"}),
    "unpaired-preference": frozenset({"prompt", "completion", "label", "messages", "kto_tag"}),
    "prompt-completion": frozenset({"prompt", "completion", "response", "system"}),
    "instruction": frozenset({"instruction", "input", "context", "system", "history", *ANSWERS}),
    "query-response": frozenset({*QUESTIONS, *ANSWERS, "system", "history"}),
    "tokens": frozenset({*TOKEN_COLUMNS, *TAG_COLUMNS}),
}


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation read from a row. good is False where the answer is marked as a bad one."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    rejected: str | None = None
    good: bool = True


def shape_of(row: Row) -> str | None:
    """The named shape of one row, or None for a plain table row."""
    keys = row.keys()
    if {"preferred_output", "non_preferred_output"} <= keys or {*OLD_SPELLING} <= keys:
        return "openai-preference"
    if {"chosen", "rejected"} <= keys:
        return "preference"
    if "messages" in keys and _is_list(row["messages"]):
        return "unpaired-preference" if "kto_tag" in keys else "messages"
    if any(_is_list(row.get(key)) for key in ("conversations", "conversation")):
        return "sharegpt"
    if {"prompt", "completion"} <= keys and ("kto_tag" in keys or _is_flag(row.get("label"))):
        return "unpaired-preference"
    if first_key(row, TOKEN_COLUMNS) and first_key(row, TAG_COLUMNS):
        tokens = parse_cell(row[first_key(row, TOKEN_COLUMNS) or ""])
        return "tokens" if isinstance(tokens, list) else None
    if {"label", "labels", "category", "class"} & keys:
        return None
    if "prompt" in keys and {"completion", "response"} & keys:
        return "prompt-completion"
    if "instruction" in keys and first_key(row, ANSWERS):
        return "instruction"
    if first_key(row, QUESTIONS) and first_key(row, ANSWERS):
        return "query-response"
    return None


def first_key(row: Row, names: Iterable[str]) -> str | None:
    """The first of `names` that the row has, or None."""
    return next((name for name in names if name in row), None)


def parse_cell(value: Any) -> Any:
    """A cell as Python: JSON lists and objects written as text (csv cells) are read."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def read_talk(row: Row, shape: str, place: str) -> Talk:
    """The conversation in a row of a named shape. Raises DataError for unknown roles etc."""
    return _READERS[shape](row, place)


def read_messages(value: Any, place: str) -> tuple[Message, ...]:
    """Messages from a list of {role, content} or {from, value}; [] for an empty cell."""
    items = parse_cell(value)
    if items is None or items == "":
        return ()
    if not isinstance(items, list):
        raise DataError(
            f"{place}: {str(items)[:40]!r} where a list of messages belongs; write "
            '[{"role": "user", "content": "..."}, ...]'
        )
    return tuple(_read_message(item, place) for item in items)


def _read_message(item: Any, place: str) -> Message:
    if not isinstance(item, Mapping) or not ({"role", "from"} & item.keys()):
        raise DataError(
            f"{place}: message {str(item)[:40]!r} has no role; write "
            '{"role": "user", "content": "..."}'
        )
    name = item.get("role", item.get("from"))
    role = ROLES.get(str(name).lower())
    if role is None:
        raise DataError(f"{place}: role {name!r} unknown; use system, user, assistant or tool")
    content = item["content"] if "content" in item else item.get("value")
    weight = item.get("weight")
    if weight is not None and (isinstance(weight, str) or not 0 <= weight < float("inf")):
        raise DataError(f"{place}: message weight {weight!r}; give a number from 0 up")
    return Message(
        role=role,
        content=_read_content(content, place),
        weight=None if weight is None else float(weight),
        tool_calls=_read_calls(item, place),
        name=item.get("name"),
        tool_call_id=item.get("tool_call_id"),
    )


def _read_content(content: Any, place: str) -> str:
    if content is None:
        return ""
    if isinstance(content, list):
        kinds = [part.get("type", "text") if isinstance(part, Mapping) else "" for part in content]
        other = [kind for kind in kinds if kind != "text"]
        if other:
            raise DataError(f"{place}: message part of type {other[0]!r}; only text can be learned")
        return "".join(str(part.get("text") or "") for part in content)
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def _read_calls(item: Mapping[str, Any], place: str) -> tuple[Mapping[str, Any], ...]:
    calls = parse_cell(item.get("tool_calls")) or ()
    if item.get("function_call"):
        calls = ({"type": "function", "function": item["function_call"]},)
    if not _are_objects(calls):
        raise DataError(f"{place}: tool_calls holds {str(calls)[:40]!r}; give a list of objects")
    return tuple(calls)


def read_tools(row: Row, place: str) -> tuple[Mapping[str, Any], ...]:
    """Tool descriptions beside a conversation. Raises DataError unless a list of objects."""
    tools = parse_cell(row.get("tools")) or ()
    if not _are_objects(tools):
        raise DataError(f"{place}: tools holds {str(tools)[:40]!r}; give a list of objects")
    return tuple(tools)


def make_turn(
    prompt: Any, completion: Any, place: str, *, system: Any = None, history: Any = None
) -> tuple[Message, ...]:
    """A conversation from a prompt and a completion, each a text or a list of messages."""
    messages = [Message("system", str(system))] if system else []
    earlier = parse_cell(history) or ()
    if not isinstance(earlier, (list, tuple)):
        raise DataError(
            f"{place}: history holds {str(earlier)[:40]!r}; give [question, answer] pairs"
        )
    for pair in earlier:
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise DataError(
                f"{place}: history holds {str(pair)[:40]!r}; give [question, answer] pairs"
            )
        messages += [Message("user", str(pair[0])), Message("assistant", str(pair[1]))]
    return (
        *messages,
        *_as_messages(prompt, "user", place),
        *_as_messages(completion, "assistant", place),
    )


def _answer(value: Any) -> Any:
    """An answer: messages where it holds them, else its own text, JSON or not."""
    if isinstance(value, str):
        read = parse_cell(value)
        items = read if isinstance(read, list) else [read]
        turns = bool(items) and all(_is_message(item) for item in items)
        return read if turns else value
    plain = isinstance(value, Mapping) and not _is_message(value)
    return json.dumps(value, ensure_ascii=False) if plain else value


def _is_message(item: Any) -> bool:
    return isinstance(item, Mapping) and bool({"role", "from", "messages"} & item.keys())


def _as_messages(value: Any, role: Role, place: str) -> tuple[Message, ...]:
    if isinstance(value, str) and role == "assistant":
        value = _answer(value)
        if isinstance(value, str):
            return (Message(role, value),) if value else ()
    if _is_list(value):
        return read_messages(value, place)
    if value is None or value == "":
        return ()
    if isinstance(value, Mapping):
        inner = value.get("messages")
        return read_messages(inner if inner is not None else [value], place)
    return (Message(role, value if isinstance(value, str) else str(value)),)


def _read_conversation(row: Row, place: str) -> Talk:
    key = first_key(row, ("messages", "conversations", "conversation")) or "messages"
    messages = read_messages(row.get(key), place)
    if row.get("system") and not any(message.role == "system" for message in messages):
        messages = (Message("system", str(row["system"])), *messages)
    return Talk(messages, read_tools(row, place))


def _read_prompt_completion(row: Row, place: str) -> Talk:
    completion = row.get("completion", row.get("response"))
    turn = make_turn(
        row.get("prompt"), completion, place, system=row.get("system"), history=row.get("history")
    )
    return Talk(turn, read_tools(row, place))


def _read_instruction(row: Row, place: str) -> Talk:
    parts = [row.get("instruction"), row.get("input") or row.get("context")]
    prompt = "\n\n".join(str(part) for part in parts if part)
    answer = row.get(first_key(row, ANSWERS) or "output")
    turn = make_turn(prompt, answer, place, system=row.get("system"), history=row.get("history"))
    return Talk(turn, read_tools(row, place))


def _read_query_response(row: Row, place: str) -> Talk:
    question = row.get(first_key(row, QUESTIONS) or "query")
    answer = row.get(first_key(row, ANSWERS) or "response")
    return Talk(
        make_turn(question, answer, place, system=row.get("system"), history=row.get("history"))
    )


def _read_preference(row: Row, place: str) -> Talk:
    chosen = _as_messages(_answer(row.get("chosen")), "assistant", place)
    rejected = _as_messages(_answer(row.get("rejected")), "assistant", place)
    whole = any(message.role == "user" for message in chosen)
    prompt = () if whole else _as_messages(parse_cell(row.get("prompt")), "user", place)
    if not whole and not prompt and chosen:
        raise DataError(f"{place}: chosen and rejected without a prompt; add a prompt column")
    messages = (*prompt, *chosen)
    if row.get("system") and not any(message.role == "system" for message in messages):
        messages = (Message("system", str(row["system"])), *messages)
    return Talk(messages, read_tools(row, place), rejected=_last_content(rejected))


def _read_openai_preference(row: Row, place: str) -> Talk:
    given = parse_cell(row.get("input"))
    prompt = _as_messages(given, "user", place)
    better, other = row.get("preferred_output"), row.get("non_preferred_output")
    if OLD_SPELLING[0] in row:
        better, other = (row.get(key) for key in OLD_SPELLING)
    chosen = _as_messages(_answer(better), "assistant", place)
    worse = _as_messages(_answer(other), "assistant", place)
    tools = read_tools(given, place) if isinstance(given, Mapping) else ()
    return Talk((*prompt, *chosen), tools, rejected=_last_content(worse))


def _read_unpaired(row: Row, place: str) -> Talk:
    if "chosen" in row and "rejected" in row:  # pairs to judge by, beside single answers
        return _read_preference(row, place)
    flag = row.get("kto_tag", row.get("label"))
    if not _is_flag(flag):
        raise DataError(f"{place}: {flag!r} where true (good) or false (bad) belongs")
    good = flag if isinstance(flag, bool) else str(flag).lower() in ("true", "1")
    talk = (
        _read_conversation(row, place) if "messages" in row else _read_prompt_completion(row, place)
    )
    if good:
        return talk
    return Talk(talk.messages[:-1], talk.tools, _last_content(talk.messages), good=False)


def _last_content(messages: tuple[Message, ...]) -> str | None:
    return messages[-1].content if messages else None


def _are_objects(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(item, Mapping) for item in value)


def _is_list(value: Any) -> bool:
    return isinstance(parse_cell(value), list)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool) or str(value).lower() in ("true", "false")


_READERS: dict[str, Callable[[Row, str], Talk]] = {
    "messages": _read_conversation,
    "sharegpt": _read_conversation,
    "openai-preference": _read_openai_preference,
    "preference": _read_preference,
    "unpaired-preference": _read_unpaired,
    "prompt-completion": _read_prompt_completion,
    "instruction": _read_instruction,
    "query-response": _read_query_response,
}
CONVERSATIONS = frozenset(_READERS)
