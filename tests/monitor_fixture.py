"""A made-up world to watch: classes are directions, answers come from a nearest-centre model."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
from scipy import special

from tunewright.monitor.profile import Lens, Profile, make_lens, make_profile
from tunewright.records import Request

WIDTH, CLASSES, UNKNOWN = 24, 8, 4
LABELS = tuple(f"class_{i}" for i in range(CLASSES))
WORDS = [["card", "lost", "stolen"], ["cash", "machine", "fee"], ["rate", "money", "exchange"],
         ["phone", "number", "change"], ["pin", "blocked", "wrong"], ["top", "bank", "account"],
         ["refund", "shop", "item"], ["limit", "raise", "daily"], ["hotel", "pool", "towels"],
         ["parking", "garage", "valet"], ["breakfast", "menu", "eggs"],
         ["spa", "massage", "sauna"]]  # fmt: skip


@lru_cache(maxsize=1)
def centres() -> np.ndarray:
    made = np.random.default_rng(5).normal(size=(CLASSES + UNKNOWN, WIDTH))
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def rows(
    count: int, seed: int, classes: range = range(CLASSES)
) -> tuple[list[Request], np.ndarray]:
    """Requests with the answers of a nearest-centre model, and their embeddings."""
    rng = np.random.default_rng(seed)
    true = rng.choice(list(classes), count)
    states = centres()[true] + rng.normal(size=(count, WIDTH)) * 0.16
    states /= np.linalg.norm(states, axis=1, keepdims=True)
    shares = special.softmax(9 * states @ centres()[:CLASSES].T, axis=1)
    made = []
    for number in range(count):
        p, words = shares[number], WORDS[true[number]]
        label = LABELS[true[number]] if true[number] < CLASSES else "something new"
        text = f"please {words[rng.integers(3)]} the {words[0]} {number % 900 + 100}"
        made.append(
            Request(f"{seed}-{number}", float(number), text, LABELS[int(p.argmax())],
                    float(p.max()), tuple(p.tolist()), label=label)
        )  # fmt: skip
    return made, states


def unlabelled(requests: list[Request]) -> list[Request]:
    return [replace(request, label=None) for request in requests]


@lru_cache(maxsize=1)
def profile() -> Profile:
    train, train_states = rows(600, 1)
    reference, states = rows(500, 2)
    return make_profile(
        reference, states, [r.input for r in train], train_states, [r.label for r in train],
        model="made up", task="classify", labels=LABELS,
    )  # fmt: skip


@lru_cache(maxsize=1)
def lens() -> Lens:
    return make_lens(profile())
