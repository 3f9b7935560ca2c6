"""One raw row becomes one Example, by task and shape. Guesses are made in columns.py."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tunewright.data.layout import Layout, as_shape, labels_of, text_of
from tunewright.data.profile import is_missing, to_category, to_number
from tunewright.data.shapes import CONVERSATIONS, Talk, make_turn, parse_cell, read_talk
from tunewright.data.spans import join_tokens, read_spans
from tunewright.errors import DataError
from tunewright.records import Example, Message, Output
from tunewright.sections import DataSection

Row = Mapping[str, Any]
SURROGATES = re.compile("[\ud800-\udfff]")


def make_example(place: str, row: Row, layout: Layout, data: DataSection) -> Example:
    """One row as an Example, its id without the suffix that equal rows get later.

    An input or output that is missing stays empty ("" or None) for clean.py to count.
    Raises DataError where a cell cannot be read: unknown role, span outside the text, no number.
    """
    columns = layout.columns
    shown = place
    if data.columns.id and not is_missing(row.get(data.columns.id)):
        shown = f"{place} ({text_of(row[data.columns.id])})"
    if layout.shape in CONVERSATIONS or layout.task in ("generate", "chat"):
        example = _from_talk(place, row, layout, data)
    else:
        example = _BUILDERS[layout.task](place, row, layout, data)
    group = row.get(data.group) if data.group else None
    return replace(
        example,
        id=content_id(example),
        place=shown,
        group=None if is_missing(group) else text_of(group),
        weight=_weight(row.get(columns.weight), place) if columns.weight else 1.0,
    )


def content_id(example: Example) -> str:
    """16 hex digits of the SHA-256 of what the row says; place, group and weight play no part."""
    content: list[Any] = [example.input, _plain(example.output)]
    if example.messages:
        content.append([_plain_message(message) for message in example.messages])
    if example.tools:
        content.append(list(example.tools))
    if example.columns:
        content.append([list(pair) for pair in example.columns])
    if example.rejected is not None:
        content.append({"rejected": example.rejected})
    text = json.dumps(content, ensure_ascii=True, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def readable_prompt(messages: tuple[Message, ...]) -> str:
    """The turns before the answer as one plain text; a single user turn stands alone."""
    users = [message for message in messages if message.role != "system"]
    if len(users) == 1 and users[0].role == "user":
        return "\n\n".join(message.content for message in messages)
    return "\n".join(f"{message.role}: {message.content}" for message in messages)


def split_answer(messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], Message | None]:
    """The turns before the last assistant turn, and that turn (None where there is none)."""
    for index in range(len(messages) - 1, -1, -1):
        if messages[index].role == "assistant":
            return messages[:index], messages[index]
    return messages, None


def _from_talk(place: str, row: Row, layout: Layout, data: DataSection) -> Example:
    """An example from a conversation, or from prompt and completion columns."""
    if layout.shape in CONVERSATIONS:
        talk = read_talk(as_shape(row, layout.columns), layout.shape, place)
    else:
        prompt = parse_cell(row.get(layout.columns.input or ""))
        answer = row.get(layout.columns.output or "")
        worse = row.get(layout.columns.rejected) if layout.columns.rejected else None
        prompt = prompt if isinstance(prompt, list) else text_of(prompt)
        talk = Talk(
            make_turn(prompt, text_of(answer), place),
            rejected=None if is_missing(worse) else text_of(worse),
        )
    before, answer_turn = split_answer(talk.messages)
    text = readable_prompt(before)
    answered = answer_turn is not None and talk.good
    said = answer_turn.content if answer_turn is not None and answered else None
    if said == "" and answer_turn is not None and answer_turn.tool_calls:
        said = json.dumps([dict(call) for call in answer_turn.tool_calls], ensure_ascii=False)
    if layout.task in ("classify", "regress"):
        return _judged(place, text, said, layout, data)
    if layout.task == "continue":
        return _bare(place, "\n".join(message.content for message in talk.messages))
    messages = talk.messages
    if data.system_prompt and not any(message.role == "system" for message in messages):
        messages = (Message("system", data.system_prompt), *messages)
    return Example(
        id="",
        place=place,
        input=text,
        output=said or None,
        messages=messages,
        tools=talk.tools,
        rejected=talk.rejected,
    )


def _judged(
    place: str, text: str, answer: str | None, layout: Layout, data: DataSection
) -> Example:
    output: Output
    if layout.task == "regress":
        output = _number(answer, place, "the answer")
    else:
        output = _label(answer, layout, data)
    return Example(id="", place=place, input=text, output=output)


def _classify(place: str, row: Row, layout: Layout, data: DataSection) -> Example:
    text, columns = _text_and_columns(place, row, layout)
    output = _label(row.get(layout.columns.output or ""), layout, data)
    return Example(id="", place=place, input=text, output=output, columns=columns)


def _regress(place: str, row: Row, layout: Layout, data: DataSection) -> Example:
    text, columns = _text_and_columns(place, row, layout)
    name = layout.columns.output or ""
    output = _number(row.get(name), place, f"column {name}")
    return Example(id="", place=place, input=text, output=output, columns=columns)


def _tag(place: str, row: Row, layout: Layout, data: DataSection) -> Example:
    cell, marks = row.get(layout.columns.input or ""), row.get(layout.columns.output or "")
    if layout.shape == "tokens":
        if is_missing(cell) or is_missing(marks):
            return Example(id="", place=place, input="", output=None)
        text, spans = join_tokens(cell, marks, place)
    else:
        text = text_of(cell)
        spans = read_spans(marks, text, place)
    return Example(id="", place=place, input=text, output=spans)


def _continue(place: str, row: Row, layout: Layout, data: DataSection) -> Example:
    return _bare(place, text_of(row.get(layout.columns.input or "")))


def _embed(place: str, row: Row, layout: Layout, data: DataSection) -> Example:
    chosen = layout.columns
    text, found = text_of(row.get(chosen.input or "")), text_of(row.get(chosen.output or ""))
    other = row.get(chosen.rejected) if chosen.rejected else None
    return Example(
        id="",
        place=place,
        input=text,
        output=found or None,
        messages=(Message("user", text), Message("assistant", found)),
        rejected=None if is_missing(other) else text_of(other),
    )


def _bare(place: str, text: str) -> Example:
    return Example(id="", place=place, input=text)


def _label(cell: Any, layout: Layout, data: DataSection) -> Output:
    names = labels_of(cell, data.label_separator)
    if layout.multi_label or names is None:
        return names if names is None else tuple(sorted(names))
    return names[0] if names and names[0] else None


def _number(cell: Any, place: str, where: str) -> float | None:
    try:
        return to_number(cell)
    except (ValueError, TypeError):
        raise DataError(
            f"{place}: {str(cell)[:40]!r} in {where} where a number belongs; mend it, "
            "or set task: classify"
        ) from None


def _text_and_columns(
    place: str, row: Row, layout: Layout
) -> tuple[str, tuple[tuple[str, float | str | None], ...]]:
    """The text of a row and the values beside it, in file order."""
    chosen = layout.columns
    values: list[tuple[str, float | str | None]] = []
    for name in (*row, *(n for n in (*chosen.numeric, *chosen.categorical) if n not in row)):
        if name in chosen.numeric:
            values.append((name, _number(row.get(name), place, f"column {name}")))
        elif name in chosen.categorical:
            values.append((name, to_category(row.get(name))))
    if chosen.input is not None:
        return text_of(row.get(chosen.input)), tuple(values)
    known = [f"{name}: {_short(value)}" for name, value in values if value is not None]
    return "; ".join(known), tuple(values)


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"


def _weight(cell: Any, place: str) -> float:
    weight = _number(cell, place, "the weight column")
    if weight is None:
        return 1.0
    if weight < 0:
        raise DataError(f"{place}: weight {weight:g} is below 0; give 0 or more")
    return weight


def _plain(output: Output) -> Any:
    if isinstance(output, tuple):
        return [[p.start, p.end, p.label] if not isinstance(p, str) else p for p in output]
    return output


def _plain_message(message: Message) -> list[Any]:
    return [
        message.role,
        message.content,
        message.weight,
        [dict(call) for call in message.tool_calls],
        message.name,
        message.tool_call_id,
    ]


_BUILDERS: dict[str, Callable[[str, Row, Layout, DataSection], Example]] = {
    "classify": _classify,
    "regress": _regress,
    "tag": _tag,
    "continue": _continue,
    "embed": _embed,
}
