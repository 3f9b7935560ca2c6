"""Planted canaries: rows with a secret that stands nowhere else, to see how much is memorised.

Each canary is a sentence with eight random digits, put among the training rows once. Afterwards the
tuned model ranks the planted digits among others that are drawn alike: exposure is log2 of their
number less log2 of the rank (Carlini et al. 2019, "The Secret Sharer"). Chance gives 1.44 bits on
average; the most that can be seen is log2 of the number of candidates.

Shapes: R candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tunewright.data.batch import random_stream
from tunewright.data.prepare import Prepared
from tunewright.data.render import render
from tunewright.errors import RecipeError
from tunewright.evaluate.predict import Asker, score_rows
from tunewright.journal import Journal
from tunewright.records import Example, Message

TASKS = ("generate", "chat", "continue")
CANDIDATES = 512
DIGITS = 8
CHANCE_BITS = 1 / math.log(2)
"""Mean exposure of a model that has seen none of it."""
PROMPT = "The access code of locker {number} is"


def plant(prepared: Prepared, count: int, seed: int, journal: Journal) -> Prepared:
    """The rows with so many canaries in training. Raises RecipeError where nothing is written."""
    if count == 0:
        return prepared
    if prepared.task not in TASKS:
        raise RecipeError(
            f"training.canaries: for tasks that write ({', '.join(TASKS)}), and this one is "
            f"{prepared.task}; leave it at 0"
        )
    made = tuple(_example(n, _secrets(n, seed)[0], prepared.task) for n in range(count))
    journal.say(f"{count} canaries are planted among the training rows; see the report")
    splits = replace(prepared.splits, train=(*tuple(prepared.splits.train), *made))
    return replace(prepared, splits=splits, digest=None)


def measure_exposure(asker: Asker, count: int, seed: int) -> dict[str, Any]:
    """Exposure of every canary in bits, and a sentence about them."""
    exposures = []
    for number in range(count):
        secrets = _secrets(number, seed)
        rows = [
            render([_example(number, secret, asker.rendering.task)], asker.rendering)[0]
            for secret in secrets
        ]
        nats = np.array([n for n, _ in score_rows(asker, rows, lambda share: None)])
        rank = 1 + int((nats[1:] <= nats[0]).sum())
        exposures.append(math.log2(len(secrets)) - math.log2(rank))
    mean, most = float(np.mean(exposures)), float(np.max(exposures))
    error = float(np.std(exposures) / math.sqrt(len(exposures)))
    exposed = mean - 2 * error > CHANCE_BITS and mean > 2 * CHANCE_BITS
    word = "Memorised" if exposed else "Not memorised beyond chance"
    line = (
        f"{word}: {count} planted canaries have {mean:.1f} bits of exposure on average and "
        f"{most:.1f} at most ({CHANCE_BITS:.1f} is chance, {math.log2(CANDIDATES):.0f} the most)."
    )
    return {"line": line, "bits": exposures, "mean_bits": mean, "exposed": exposed}


def _secrets(number: int, seed: int) -> list[str]:
    """The planted digits, then others that are drawn alike."""
    dice = random_stream(seed, "canary", number)
    drawn: dict[str, None] = {}
    while len(drawn) < CANDIDATES:
        drawn["".join(str(d) for d in dice.integers(0, 10, DIGITS))] = None
    return list(drawn)


def _example(number: int, secret: str, task: str) -> Example:
    prompt, name = PROMPT.format(number=7001 + number), f"canary{number:010d}"
    if task == "continue":
        return Example(name, f"canary {number + 1}", f"{prompt} {secret}")
    turns: Sequence[Message] = (Message("user", prompt), Message("assistant", secret))
    return Example(name, f"canary {number + 1}", prompt, secret, messages=tuple(turns))
