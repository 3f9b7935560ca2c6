"""Personal data replaced by placeholders that keep the meaning: <EMAIL_1>, <PHONE_2>.

The one place where Tunewright redacts: `check --redact` uses it on files, serving on requests.
Within one memory the same value always gets the same placeholder, so that prompt and completion of
a row still speak of the same thing; `restore` puts the values back.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from tunewright.data.audit.personal import STRUCTURED, find_personal
from tunewright.records import Example, Span

PLACEHOLDER = re.compile(
    r"<(PRIVATE_KEY|KEY|PASSWORD|EMAIL|IBAN|CARD|IP|NATIONAL_ID|PHONE|NAME)_(\d+)>"
)


@dataclass
class Memory:
    """What was replaced by what; one for each row, request or conversation."""

    placeholders: dict[tuple[str, str], str] = field(default_factory=dict)
    """(kind, value without space, case and punctuation) to placeholder."""
    values: dict[str, str] = field(default_factory=dict)
    """Placeholder to the value as it first stood."""
    taken: Counter[str] = field(default_factory=Counter)
    """Highest number in use by kind."""


def redact(text: str, memory: Memory, *, kinds: Collection[str] = STRUCTURED) -> str:
    """The text with personal data of these kinds replaced; what is replaced goes into `memory`.

    A placeholder that stands in the text already keeps its number to itself.
    """
    for match in PLACEHOLDER.finditer(text):
        kind = match.group(1).lower()
        memory.taken[kind] = max(memory.taken[kind], int(match.group(2)))
    parts, end = [], 0
    for mark in find_personal(text, names="name" in kinds):
        if mark.kind not in kinds:
            continue
        value = text[mark.start : mark.end]
        parts += [text[end : mark.start], _placeholder(mark.kind, value, memory)]
        end = mark.end
    return "".join((*parts, text[end:])) if parts else text


def restore(text: str, memory: Memory) -> str:
    """The text with the placeholders of this memory turned back into what they stand for."""
    return PLACEHOLDER.sub(lambda match: memory.values.get(match.group(), match.group()), text)


def redact_example(example: Example, *, kinds: Collection[str] = STRUCTURED) -> Example:
    """The example with input, completion and turns redacted under one memory; labels stay.

    Spans move along with their text; a span that a placeholder swallows in part covers all of it.
    """
    memory = Memory()
    text = redact(example.input, memory, kinds=kinds)
    output = example.output
    if example.messages and isinstance(output, str):
        output = redact(output, memory, kinds=kinds)
    elif isinstance(output, tuple) and text != example.input:
        output = _moved(example.input, output, kinds)
    return replace(
        example,
        input=text,
        output=output,
        rejected=redact(example.rejected, memory, kinds=kinds) if example.rejected else None,
        references=tuple(redact(item, memory, kinds=kinds) for item in example.references),
        messages=tuple(
            replace(turn, content=redact(turn.content, memory, kinds=kinds))
            for turn in example.messages
        ),
    )


def _placeholder(kind: str, value: str, memory: Memory) -> str:
    key = (kind, re.sub(r"[\W_]", "", value).casefold())
    if key not in memory.placeholders:
        memory.taken[kind] += 1
        memory.placeholders[key] = f"<{kind.upper()}_{memory.taken[kind]}>"
        memory.values[memory.placeholders[key]] = value
    return memory.placeholders[key]


def _moved(
    text: str, output: tuple[str, ...] | tuple[Span, ...], kinds: Collection[str]
) -> tuple[str, ...] | tuple[Span, ...]:
    """Spans of a text at their places in the redacted text; labels as they are."""
    memory, edits = Memory(), []
    for match in PLACEHOLDER.finditer(text):
        kind = match.group(1).lower()
        memory.taken[kind] = max(memory.taken[kind], int(match.group(2)))
    for mark in find_personal(text, names="name" in kinds):
        if mark.kind in kinds:
            new = _placeholder(mark.kind, text[mark.start : mark.end], memory)
            edits.append((mark.start, mark.end, len(new)))

    def place(index: int, *, is_end: bool) -> int:
        shift = 0
        for start, end, size in edits:
            if end <= index:
                shift += size - (end - start)
            elif start < index:
                return start + shift + (size if is_end else 0)
        return index + shift

    moved = tuple(
        Span(place(item.start, is_end=False), place(item.end, is_end=True), item.label)
        for item in output
        if isinstance(item, Span)
    )
    return moved or output
