"""How rows become examples: the Layout record, and how single cells are read under it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunewright.data.profile import is_missing, label_name
from tunewright.data.shapes import parse_cell
from tunewright.records import Task
from tunewright.sections import Columns

PlacedRow = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Layout:
    """How rows become examples.

    shape: a named shape of shapes.py, or table, spans, text.
    columns: the columns used, found or given; numeric and categorical included.
    labels: every label, sorted (classify, tag); else empty.
    reasons: a plain sentence for every guess.
    """

    task: Task
    shape: str
    columns: Columns
    labels: tuple[str, ...] = ()
    multi_label: bool = False
    reasons: tuple[str, ...] = ()


def labels_of(cell: Any, separator: str | None) -> tuple[str, ...] | None:
    """The labels in a cell, each once, in order; None where the cell is missing."""
    value = parse_cell(cell)
    if isinstance(value, (list, tuple)):
        return tuple(dict.fromkeys(label_name(item) for item in value if not is_missing(item)))
    if is_missing(value):
        return None
    if separator:
        parts = (part.strip() for part in str(value).split(separator))
        return tuple(dict.fromkeys(part for part in parts if part))
    return (label_name(value),)


def text_of(cell: Any) -> str:
    """A cell as text; {"text": ...} objects give their text, missing cells the empty text."""
    value = cell
    if isinstance(value, Mapping) and isinstance(value.get("text"), str):
        value = value["text"]
    if isinstance(value, str):
        return value
    if is_missing(value):
        return ""
    if isinstance(value, (list, tuple)):
        return "\n".join(text_of(item) for item in value)
    return label_name(value) if isinstance(value, float) else str(value)


def as_shape(row: Mapping[str, Any], columns: Columns) -> Mapping[str, Any]:
    """The row with the user's messages column under the name that the shape expects."""
    if columns.messages and columns.messages != "messages":
        return {**row, "messages": row.get(columns.messages)}
    return row


def file_name(rows: Sequence[PlacedRow]) -> str:
    """The file name in the first row's place."""
    return rows[0][0].rpartition(":")[0] or rows[0][0]
