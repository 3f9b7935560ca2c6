"""What the columns of a data set mean, found where it is clear and asked for where it is not.

`find_layout` looks at all rows once; `make_example` then turns each row into an Example.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from tunewright.data.examples import make_example
from tunewright.data.guess import Guess
from tunewright.data.label_types import refuse_structured_labels
from tunewright.data.layout import Layout, PlacedRow, as_shape, file_name, labels_of, text_of
from tunewright.data.profile import MAX_LABELS, Profile, profile_columns
from tunewright.data.shapes import (
    ANCHORS,
    CONVERSATIONS,
    NEGATIVES,
    POSITIVES,
    SHAPE_KEYS,
    TAG_COLUMNS,
    TOKEN_COLUMNS,
    first_key,
    parse_cell,
    read_talk,
    shape_of,
)
from tunewright.data.spans import join_tokens, read_spans
from tunewright.errors import DataError
from tunewright.records import Task
from tunewright.sections import Columns, DataSection

PROMPT_KEYS = SHAPE_KEYS["prompt-completion"]
__all__ = ["Layout", "check_labels", "find_layout", "make_example"]


def find_layout(rows: Iterable[PlacedRow], data: DataSection, task: str | None) -> Layout:
    """The layout of these rows. data.columns wins over every guess; `task` None is guessed too.

    Raises DataError where the answer is not clear (with the columns and the key to set), for
    mixed row shapes, for a single class, and for columns that do not exist.
    """
    placed = list(rows)
    if not placed:
        raise DataError("no rows; give a file with at least a few")
    profiles = profile_columns(placed)
    _check_names(profiles, data, placed)
    if task == "embed" or (task is None and {"anchor", "positive"} <= profiles.keys()):
        return _embed_layout(placed, data)
    shape = _find_shape(placed, data)
    if shape == "table" and task in ("generate", "chat") and profiles.keys() <= PROMPT_KEYS:
        shape = "prompt-completion"  # prompts alone: somebody else answers them
    if shape == "tokens":
        return _tokens_layout(placed, data, task)
    if shape in CONVERSATIONS:
        return _conversation_layout(placed, data, task, shape)
    return _table_layout(placed, profiles, data, task)


def _check_names(profiles: Mapping[str, Profile], data: DataSection, rows: list[PlacedRow]) -> None:
    """Raise DataError for a column that the recipe names and the data lacks."""
    given = {f"data.columns.{key}": value for key, value in data.columns.model_dump().items()}
    given["data.group"] = data.group
    for key, value in given.items():
        for name in value if isinstance(value, (list, tuple)) else (value,):
            if name is not None and name not in profiles:
                near = difflib.get_close_matches(name, profiles, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(profiles)}"
                raise DataError(f"{file_name(rows)}: no column {name!r} ({key}); {hint}")


def _find_shape(rows: list[PlacedRow], data: DataSection) -> str:
    """The shape that all rows share; table where they are a plain table."""
    if data.columns.messages:
        return "messages"
    if data.columns.input or data.columns.output:
        _check_overlap(rows, {data.columns.input, data.columns.output})
        first = rows[0][1].get(data.columns.input or "")
        tokens = isinstance(parse_cell(first), list) and bool(data.columns.output)
        return "tokens" if tokens else "table"
    shapes: dict[frozenset[str], str | None] = {}
    counts: Counter[frozenset[str]] = Counter()
    places: dict[frozenset[str], str] = {}
    for place, row in rows:
        keys = frozenset(name for name, value in row.items() if value is not None)
        counts[keys] += 1
        if keys not in shapes:
            places[keys] = place
            shapes[keys] = shape_of({name: row[name] for name in keys})
    ranked = sorted(counts, key=lambda keys: (-counts[keys], sorted(keys)))
    main = next((keys for keys in ranked if shapes[keys]), ranked[0])
    for keys in ranked:
        if not _fits(keys, shapes[keys], main, shapes[main]):
            odd = shapes[keys] or f"({', '.join(sorted(keys)[:4])})"
            usual = shapes[main] or f"({', '.join(sorted(main)[:4])})"
            raise DataError(
                f"{places[keys]}: a row of shape {odd} where {places[main]} has {usual}; "
                "keep one shape in a data set"
            )
    return shapes[main] or "table"


def _check_overlap(rows: list[PlacedRow], named: set[str | None]) -> None:
    """Raise DataError for a row that shares no key with the rows that hold the named columns."""
    usual = next(((place, set(row)) for place, row in rows if named & set(row)), None)
    if usual is None:
        return
    for place, row in rows:
        keys = {name for name, value in row.items() if value is not None}
        if keys and not keys & usual[1]:
            raise DataError(
                f"{place}: a row of shape ({', '.join(sorted(keys)[:4])}) where {usual[0]} has "
                f"({', '.join(sorted(usual[1])[:4])}); keep one shape in a data set"
            )


def _fits(
    keys: frozenset[str], shape: str | None, main: frozenset[str], main_shape: str | None
) -> bool:
    if not keys or (shape == main_shape and shape):
        return True
    if shape and main_shape:
        # a conversation with its answer missing can look like a poorer shape of the same keys
        return bool(keys < main)
    if main_shape:
        return bool(keys & (main | SHAPE_KEYS[main_shape]))
    return bool(keys & main)


def _embed_layout(rows: list[PlacedRow], data: DataSection) -> Layout:
    """Pairs of texts that belong together, or triplets with one that does not."""
    names = {name: None for _, row in rows for name in row}
    given = data.columns
    anchor = given.input or first_key(names, ANCHORS)
    free = [name for name in names if name != anchor]
    positive = given.output or first_key(dict.fromkeys(free), POSITIVES)
    if anchor is None or positive is None:
        missing = "input" if anchor is None else "output"
        raise DataError(
            f"{file_name(rows)}: task embed wants two texts that belong together; columns are "
            f"{', '.join(names)}; set data.columns.{missing}, or call them anchor and positive"
        )
    negative = given.rejected or first_key(dict.fromkeys(free), NEGATIVES)
    columns = given.model_copy(update={"input": anchor, "output": positive, "rejected": negative})
    beside = f", and {negative} does not" if negative else ""
    reason = f"task embed: {positive} belongs to {anchor}{beside}"
    return Layout("embed", "table", columns, reasons=(reason,))


def _tokens_layout(rows: list[PlacedRow], data: DataSection, task: str | None) -> Layout:
    if task not in (None, "tag"):
        raise DataError(
            f"{file_name(rows)}: rows hold tokens with tags, which does not suit task "
            f"{task}; set task: tag, or name other columns in data.columns"
        )
    names = {name: None for _, row in rows for name in row}
    words = data.columns.input or first_key(names, TOKEN_COLUMNS)
    tags = data.columns.output or first_key(names, TAG_COLUMNS)
    labels = {
        span.label
        for place, row in rows
        if row.get(words or "") is not None and row.get(tags or "") is not None
        for span in join_tokens(row[words or ""], row[tags or ""], place)[1]
    }
    reason = f"task tag: every row has {words} and {tags}; tokens are joined by single spaces"
    columns = data.columns.model_copy(update={"input": words, "output": tags})
    return Layout("tag", "tokens", columns, _need_labels(labels, rows, tags), False, (reason,))


def _conversation_layout(
    rows: list[PlacedRow], data: DataSection, task: str | None, shape: str
) -> Layout:
    if task == "tag":
        raise DataError(
            f"{file_name(rows)}: rows of shape {shape} hold no spans; use task generate or "
            "chat, or name columns in data.columns"
        )
    columns = data.columns
    if shape == "messages" and columns.messages is None:
        columns = columns.model_copy(update={"messages": "messages"})
    reasons = [f"rows have the shape {shape}"]
    if task is None:
        task, why = _guess_talk_task(rows, shape, columns)
        reasons.append(why)
    if task not in ("classify", "regress"):
        return Layout(cast(Task, task), shape, columns, reasons=tuple(reasons))
    answers = [answer for place, row in rows if (answer := last_answer(row, shape, columns, place))]
    reasons.append(f"the answers are the {'labels' if task == 'classify' else 'numbers'}")
    if task == "regress":
        return Layout("regress", shape, columns, reasons=tuple(reasons))
    parts = [labels_of(answer, data.label_separator) or () for answer in answers]
    labels = _need_labels({name for names in parts for name in names}, rows, "the answers")
    multi = data.label_separator is not None
    return Layout("classify", shape, columns, labels, multi, tuple(reasons))


def last_answer(row: Mapping[str, Any], shape: str, columns: Columns, place: str) -> str | None:
    """The content of the last assistant turn of a conversation row, or None."""
    messages = read_talk(as_shape(row, columns), shape, place).messages
    return messages[-1].content if messages and messages[-1].role == "assistant" else None


def _guess_talk_task(rows: list[PlacedRow], shape: str, columns: Columns) -> tuple[Task, str]:
    """chat where any row has several turns or tools, else generate."""
    for place, row in rows[:1000]:
        talk = read_talk(as_shape(row, columns), shape, place)
        turns = sum(message.role == "user" for message in talk.messages)
        if turns > 1 or talk.tools or any(m.tool_calls or m.role == "tool" for m in talk.messages):
            return "chat", f"task chat: {place} holds several turns"
    if shape in ("messages", "sharegpt"):
        return "chat", "task chat: rows are conversations"
    return "generate", "task generate: each row is one prompt and one answer"


def _table_layout(
    rows: list[PlacedRow], profiles: Mapping[str, Profile], data: DataSection, task: str | None
) -> Layout:
    """The layout of rows whose columns have no agreed meaning."""
    guess = Guess(rows, profiles, data, task)
    columns = data.columns
    if task == "continue" or (task is None and guess.only_text() is not None):
        text = columns.input or guess.only_text() or guess.find_text()
        found = columns.model_copy(update={"input": text})
        return Layout("continue", "text", found, reasons=(f"task continue: {text} is plain text",))
    output: str = columns.output or guess.find_output()
    kind = task or guess.task_of(output)
    source = columns.input or guess.find_input(output, kind)
    columns = columns.model_copy(update={"input": source, "output": output})
    layout = Layout(cast(Task, kind), "table", columns)
    if kind == "tag":
        return _finish_tag(layout, rows, guess)
    if kind == "regress":
        guess.check_numbers(output)
    if kind == "classify":
        layout = _finish_classify(layout, rows, data, profiles)
    if kind in ("classify", "regress"):
        layout = replace(layout, columns=guess.add_side_columns(layout.columns))
    return replace(layout, reasons=(*guess.reasons, *layout.reasons))


def _finish_classify(
    layout: Layout, rows: list[PlacedRow], data: DataSection, profiles: Mapping[str, Profile]
) -> Layout:
    output = layout.columns.output or ""
    listed = profiles[output].kind in ("labels", "list")
    multi = data.label_separator is not None or listed
    refuse_structured_labels(rows, output, multi_label=multi)
    names = {
        name for _, row in rows for name in labels_of(row.get(output), data.label_separator) or ()
    }
    labels = _need_labels(names, rows, output)
    reasons = [f"{len(labels)} labels in column {output}"]
    if multi:
        reasons.append("rows may carry several labels (multi-label)")
    elif hint := _separator_hint(labels):
        reasons.append(hint)
    return replace(layout, labels=labels, multi_label=multi, reasons=tuple(reasons))


def _finish_tag(layout: Layout, rows: list[PlacedRow], guess: Guess) -> Layout:
    columns = layout.columns
    labels: set[str] = set()
    for place, row in rows:
        text = text_of(row.get(columns.input or ""))
        labels |= {s.label for s in read_spans(row.get(columns.output or ""), text, place)}
    found = _need_labels(labels, rows, columns.output)
    reasons = (*guess.reasons, f"task tag: {columns.output} holds spans with {len(found)} labels")
    return replace(layout, shape="spans", labels=found, reasons=reasons)


def _need_labels(labels: set[str], rows: list[PlacedRow], column: str | None) -> tuple[str, ...]:
    """The labels, sorted. Raises DataError where there are none, one (classify), or too many."""
    return check_number_of_labels(labels, file_name(rows), column)


def check_number_of_labels(labels: set[str], source: str, column: str | None) -> tuple[str, ...]:
    """The labels, sorted. Raises DataError where there are none, or too many."""
    if not labels:
        raise DataError(f"{source}: no labels in {column}; check data.columns.output")
    if len(labels) > MAX_LABELS:
        raise DataError(
            f"{source}: {len(labels):,} different labels in {column}, more than "
            f"{MAX_LABELS:,}; is it the right column? set data.columns.output"
        )
    return tuple(sorted(labels))


def check_labels(layout: Layout, source: str) -> None:
    """Raise DataError where there is nothing to tell apart: a single class."""
    if layout.task == "classify" and len(layout.labels) < 2 and not layout.multi_label:
        raise DataError(
            f"{source}: only one class, {layout.labels[0]!r}, in {layout.columns.output}; "
            "a classifier needs two or more: add rows, or set data.columns.output"
        )


def _separator_hint(labels: Sequence[str]) -> str | None:
    for separator in "|;,":
        parts = {part.strip() for name in labels for part in name.split(separator)}
        joined = sum(separator in name for name in labels)
        if joined > 0.3 * len(labels) and len(parts) < len(labels):
            return (
                f"labels look like lists; if so, set data.label_separator: {separator!r} and "
                f"{len(parts)} labels remain"
            )
    return None
