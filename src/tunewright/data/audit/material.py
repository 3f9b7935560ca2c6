"""What every audit looks at, and the few views of it that audits share. No findings are made here.

Models come in by argument, since this shelf knows none: `embed` and `surprise` are functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tunewright.data.layout import Layout
from tunewright.journal import Journal
from tunewright.records import Example, Finding, Prediction, SplitName

Floats = NDArray[np.float32]
Embed = Callable[[Sequence[str]], Floats]
"""Texts to (N, D) float32; what a frozen encoder makes of them."""
Surprise = Callable[[Sequence[Example], Sequence[Example]], Sequence[float]]
"""(rows to learn from, rows to judge) to nats per token of each judged completion."""
SIDES: tuple[SplitName, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class AuditMaterial:
    """Cleaned and split examples, and whatever helps to judge them.

    embed, surprise: None where no model is at hand; audits then use words and characters alone.
    predictions: of any system on the test rows, by system; scores are shown with and without rows.
    cache: folder where long passes keep what is done, so that a stopped audit goes on; None: none.
    workers: processes for the passes that can use several.
    memo: what one audit computed and another wants too (embeddings, probabilities).
    """

    layout: Layout
    train: tuple[Example, ...]
    validation: tuple[Example, ...] = ()
    test: tuple[Example, ...] = ()
    embed: Embed | None = None
    surprise: Surprise | None = None
    predictions: Mapping[str, Sequence[Prediction]] = field(default_factory=dict)
    seed: int = 17
    workers: int = 1
    cache: Path | None = None
    journal: Journal = field(default_factory=Journal)
    memo: dict[str, Any] = field(default_factory=dict)

    def side(self, name: SplitName) -> tuple[Example, ...]:
        """The examples of one split."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    @property
    def num_rows(self) -> int:
        """Rows of all splits."""
        return len(self.train) + len(self.validation) + len(self.test)

    def first_rows(self, most: int) -> tuple[Example, ...]:
        """At most so many rows: of training, then of validation, then of test."""
        found: tuple[Example, ...] = ()
        for name in SIDES:
            found += tuple(self.side(name)[: most - len(found)])
        return found

    def first_embeddings(self, most: int) -> Floats | None:
        """(most or fewer, D) vectors of first_rows(most); None without a model."""
        parts: list[Floats] = []
        left = most
        for name in SIDES:
            states = self.embeddings(name) if left > 0 and self.side(name) else None
            if states is not None:
                parts.append(states[:left])
                left -= len(states)
        return np.concatenate(parts) if parts else None

    @property
    def one_label_each(self) -> bool:
        """True for classification with exactly one label a row."""
        return self.layout.task == "classify" and not self.layout.multi_label

    def embeddings(self, name: SplitName) -> Floats | None:
        """(N, D) float32 unit vectors of a split's inputs, computed once; None without a model."""
        if self.embed is None:
            return None
        key = f"embeddings/{name}"
        if key not in self.memo:
            self.memo[key] = unit(self.embed([row.input for row in self.side(name)]))
        found: Floats = self.memo[key]
        return found


def unit(states: NDArray[np.floating[Any]]) -> Floats:
    """Rows scaled to length 1, as float32; rows of zeros stay."""
    states = np.nan_to_num(np.asarray(states, dtype=np.float32))
    lengths = np.linalg.norm(states, axis=1, keepdims=True)
    return np.asarray(states / np.where(lengths > 0, lengths, 1.0), dtype=np.float32)


def labels_of(rows: Sequence[Example]) -> list[str]:
    """The label of each row, for rows that have exactly one."""
    return [row.output if isinstance(row.output, str) else "" for row in rows]


def name_rows(
    kind: str,
    severity: Literal["info", "warn", "error"],
    message: str,
    rows: Iterable[Example] = (),
    **more: Any,
) -> Finding:
    """A Finding that names these rows by id and place; `more` are further fields of the record."""
    named = list(rows)
    finding = Finding(
        kind,
        severity,
        message,
        rows=tuple(row.id for row in named),
        places=tuple(row.place for row in named),
    )
    return replace(finding, **more)


def count(number: int, one: str, many: str | None = None) -> str:
    """ "1 row", "1,234 rows": a number with its noun."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def list_some(names: Sequence[str], most: int = 8) -> str:
    """The first names, comma-separated, and how many more there are."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
