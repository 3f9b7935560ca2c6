"""Answers that fill slots: one JSON object, such as {"time": "7 pm", "people": "four"}.

Faithful is what is right and was said. A slot is *wrong* when the reference has another value for
it or none at all; it is *invented* when its value does not even stand in the request. Values are
compared without case and extra space. An answer that is no JSON object fills no slot, and counts
as wrong wherever slots were to be filled.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tunewright.metrics.labels import with_count
from tunewright.metrics.text import answer_of, references_of
from tunewright.records import Prediction

Array = NDArray[np.float64]
Slots = dict[str, str]


def read_slots(text: str) -> Slots | None:
    """The slots of an answer: names to values as plain texts; None where it is no JSON object.

    Empty values and nulls are slots that were left open. Values that are lists or objects are
    compared as JSON.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    plain = {str(name): _plain(value) for name, value in found.items()}
    return {name: value for name, value in plain.items() if value}


def slots_right_rows(predictions: Sequence[Prediction], labels: Sequence[str]) -> Array:
    """(n, 2): 1 where exactly the slots of a reference are filled, with its values; and 1."""
    return with_count([_best(row)[0] for row in predictions])


def wrong_slots_rows(predictions: Sequence[Prediction], labels: Sequence[str]) -> Array:
    """(n, 2): 1 where the answer holds a slot that no reference bears out, or is unreadable; 1."""
    return with_count([_best(row)[1] for row in predictions])


def invented_slots_rows(predictions: Sequence[Prediction], labels: Sequence[str]) -> Array:
    """(n, 2): 1 where the answer holds a value that neither request nor reference has; and 1."""
    return with_count([_invents(row) for row in predictions])


def slot_count_rows(predictions: Sequence[Prediction], labels: Sequence[str]) -> Array:
    """(n, 3): slots right, filled and wanted, by the reference that fits best."""
    rows = np.zeros((len(predictions), 3))
    for position, row in enumerate(predictions):
        rows[position] = _best(row)[2]
    return rows


def _best(row: Prediction) -> tuple[bool, bool, tuple[int, int, int]]:
    """(exactly right, wrong somewhere, counts) against the reference that fits best."""
    filled = read_slots(answer_of(row))
    choices = [read_slots(text) or {} for text in references_of(row)]
    if filled is None:
        least = min(choices, key=len)
        return False, True, (0, 0, len(least))
    hits = [(sum(filled.get(name) == value for name, value in wanted.items()), wanted)
            for wanted in choices]  # fmt: skip
    right, wanted = max(hits, key=lambda hit: 2 * hit[0] - len(hit[1]))
    counts = (right, len(filled), len(wanted))
    return filled == wanted, right < len(filled), counts


def _invents(row: Prediction) -> bool:
    filled = read_slots(answer_of(row)) or {}
    known = {value for text in references_of(row) for value in (read_slots(text) or {}).values()}
    said = _plain(row.input)
    return any(value not in said and value not in known for value in filled.values())


def _plain(value: object) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return " ".join(text.casefold().split())
