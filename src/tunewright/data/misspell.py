"""Texts written around a filter: how spammers spell, to see whether a model still reads them."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from tunewright.errors import DataError
from tunewright.records import Example

WORD = re.compile(r"[^\W\d_]{4,}")
LOOKALIKES = {
    "a": "@4а", "b": "8", "c": "(с", "e": "3е", "g": "9", "i": "1!í", "l": "1|", "o": "0оö",
    "p": "р", "s": "$5", "t": "7+", "u": "vü", "x": "×", "y": "у",
}  # fmt: skip
"""Digits, signs, and letters of other alphabets that look alike."""


def look_alike(word: str, rng: random.Random) -> str:
    """One or two letters as what looks like them."""
    places = [place for place, letter in enumerate(word) if letter.lower() in LOOKALIKES]
    for place in rng.sample(places, min(len(places), 2)):
        word = word[:place] + rng.choice(LOOKALIKES[word[place].lower()]) + word[place + 1 :]
    return word


def swapped(word: str, rng: random.Random) -> str:
    """Two neighbours changed about, the first letter staying."""
    place = rng.randrange(1, len(word) - 1)
    return word[:place] + word[place + 1] + word[place] + word[place + 2 :]


def doubled(word: str, rng: random.Random) -> str:
    """A letter written twice."""
    place = rng.randrange(len(word))
    return word[:place] + word[place] + word[place:]


def torn(word: str, rng: random.Random) -> str:
    """A sign between two letters."""
    place = rng.randrange(1, len(word))
    return word[:place] + rng.choice(".-*_ \u200b") + word[place:]


WAYS: tuple[Callable[[str, random.Random], str], ...] = (look_alike, swapped, doubled, torn)


def misspell(text: str, *, share: float, seed: int) -> str:
    """The text with about `share` of its words of four letters and more written otherwise.

    The same text, share and seed give the same result.
    """
    rng = random.Random(f"{seed} {share} {text}")

    def other(found: re.Match[str]) -> str:
        return rng.choice(WAYS)(found[0], rng) if rng.random() < share else found[0]

    return WORD.sub(other, text)


def misspell_rows(
    rows: Sequence[Example], task: str, *, share: float, seed: int
) -> tuple[Example, ...]:
    """The rows with misspelt inputs; ids, answers and columns stay.

    Raises DataError for tasks whose answers point into the text, or that take no single text.
    """
    if task not in ("classify", "regress"):
        raise DataError(f"--misspell: only for classify and regress, this is {task}")
    return tuple(replace(row, input=misspell(row.input, share=share, seed=seed)) for row in rows)
