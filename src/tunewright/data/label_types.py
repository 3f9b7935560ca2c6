"""Labels of several types in one column: text here, a number there, a list somewhere else.

Text and numbers can stand side by side, 1 and "1" as one label; whoever wrote the file should know.
A list or an object is no label of a row that has one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from tunewright.data.audit.passes import place_key
from tunewright.data.layout import Layout, PlacedRow
from tunewright.data.profile import is_missing
from tunewright.data.shapes import CONVERSATIONS, parse_cell
from tunewright.errors import DataError
from tunewright.records import Example, Finding

_WORDS = {
    "text": ("text", "texts"),
    "number": ("number", "numbers"),
    "flag": ("true or false", "true or false"),
    "other": ("value of another kind", "values of other kinds"),
}
_SHOWN_CHARS = 40
_REMEMBERED = 100_000
"""Rows of a type that are listed where it stood alone so far: of millions, not each."""


def refuse_structured_labels(rows: Iterable[PlacedRow], column: str, *, multi_label: bool) -> None:
    """Raise DataError for the first list or object where a label belongs.

    multi_label: lists of labels are what is asked for, and only what is in them is looked at.
    """
    for place, row in rows:
        cell = parse_cell(row.get(column))
        if multi_label and isinstance(cell, (list, tuple)):
            odd = next((item for item in cell if isinstance(item, (list, tuple, Mapping))), None)
            if odd is not None:
                raise DataError(
                    f"{place}: {_show(odd)} among the labels in column {column}; write each label "
                    "as text or number"
                )
        elif isinstance(cell, Mapping):
            raise DataError(
                f"{place}: {_show(cell)} in column {column} where a label belongs; write its name "
                "as text or number, or set data.columns.output"
            )
        elif isinstance(cell, (list, tuple)):
            raise DataError(
                f"{place}: {_show(cell)} in column {column} where other rows hold one label; write "
                "one label here, or a list in every row if rows have several"
            )


class LabelTypes:
    """The types of the labels of rows as they go by, and which rows have which."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.firsts: dict[str, Example] = {}
        self.rows: dict[str, list[tuple[str, str]]] = defaultdict(list)

    def add(self, rows: Iterable[PlacedRow], examples: Iterable[Example], layout: Layout) -> None:
        """Look at rows and the examples made of them. Only single labels of a column count."""
        column = layout.columns.output
        if layout.task != "classify" or layout.shape in CONVERSATIONS or column is None:
            return
        for (_, row), example in zip(rows, examples, strict=True):
            cell = row.get(column)
            if is_missing(cell) or isinstance(cell, (list, tuple)):
                continue
            kind = _type_of(cell)
            self.counts[kind] += 1
            self.firsts.setdefault(kind, example)
            if len(self.counts) > 1 or self.counts[kind] <= _REMEMBERED:
                self.rows[kind].append((example.id, example.place))

    def findings(self, column: str | None) -> list[Finding]:
        """A Finding that names the types, how often each stands, and the rows of the rarer ones."""
        if len(self.counts) < 2:
            return []
        told = []
        ranked = self.counts.most_common()
        for kind, times in ranked:
            first = self.firsts[kind]
            words = _WORDS[kind][times > 1]
            told.append(f"{times:,} {words} (first: {first.place}, {first.output!r})")
        message = (
            f"labels of different types in column {column}: {', '.join(told)}; they are read as "
            'text, so 1, "1" and true are one label: write all of them the same way'
        )
        odd = [row for kind, _ in ranked[1:] for row in self.rows[kind]]
        odd.sort(key=lambda row: place_key(row[1]))
        ids, places = zip(*odd, strict=True)
        details = {"types": dict(ranked)}
        return [Finding("label_types", "warn", message, ids, places, details=details)]


def _type_of(cell: Any) -> str:
    if isinstance(cell, str):
        return "text"
    if isinstance(cell, bool):
        return "flag"
    return "number" if hasattr(cell, "__float__") else "other"


def _show(cell: Any) -> str:
    text = str(list(cell) if isinstance(cell, tuple) else cell)
    word = "an object" if isinstance(cell, Mapping) else "a list"
    return f"{word}, {text[:_SHOWN_CHARS]}{'...' * (len(text) > _SHOWN_CHARS)},"
