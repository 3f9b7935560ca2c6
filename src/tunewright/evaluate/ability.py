"""What a model can do beside its task: a fixed probe that no update trains on.

Models that decide: how often a text's nearest class mean, of its embeddings, is its own, on the
intents of `embedded:support-tickets`, each text left out of its own mean. Models that write: the
surprise of the same texts, in nats a token. A score says little by itself; two models on the same
texts, one tuned from the other, say what was lost on the way.

Shapes: n texts, C classes, H width of an embedding.
"""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tunewright.data.embedded import embedded_folder
from tunewright.data.render import render
from tunewright.evaluate.embeddings import embed_texts, unit
from tunewright.evaluate.predict import Asker, score_rows
from tunewright.metrics.stats import find_units, paired_share_interval
from tunewright.records import Example

NUM_TEXTS = 600
FEWEST_A_CLASS = 5
WRITES = ("generate", "chat", "continue")
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ability:
    """Two models on the probe. unit: "share" (larger is better) or "nats" (smaller is).

    delta: new less old, its sign turned for nats, so that below 0 is a loss.
    """

    unit: str
    n: int
    old: float
    new: float
    delta: float
    ci95: tuple[float, float]
    says: str


@lru_cache(maxsize=1)
def probe_texts() -> tuple[tuple[str, str], ...]:
    """(text, intent) of the probe: the test file first, intents of a few texts at least."""
    rows = []
    for name in ("test.csv", "train.csv"):
        path = embedded_folder("support-tickets") / name
        with open(path, encoding="utf-8", newline="") as file:
            rows += [(row["text"], row["intent"]) for row in csv.DictReader(file)]
    chosen = list(dict.fromkeys(rows))[:NUM_TEXTS]
    counts = Counter(intent for _, intent in chosen)
    return tuple(row for row in chosen if counts[row[1]] >= FEWEST_A_CLASS)


def compare_ability(old: Asker, new: Asker) -> Ability:
    """Both models on the probe, paired."""
    writes = new.rendering.task in WRITES
    before, after = (_nats(old), _nats(new)) if writes else (_rights(old), _rights(new))
    difference = before - after if writes else after - before
    n, delta = len(difference), float(difference.mean())
    if writes:
        reach = 1.96 * float(difference.std(ddof=1)) / n**0.5
        interval = (delta - reach, delta + reach)
        told = f"{after.mean():.3f} nats a token on {n} unrelated texts, before {before.mean():.3f}"
    else:
        interval = paired_share_interval(difference, find_units([None] * n))
        told = (
            f"{100 * after.mean():.1f} % of {n} unrelated texts lie by their own kind, before "
            f"{100 * before.mean():.1f} %"
        )
    word = "lost" if interval[1] < 0 else "gained" if interval[0] > 0 else "unchanged within chance"
    return Ability("nats" if writes else "share", n, float(before.mean()), float(after.mean()),
                   delta, interval, f"{told}: {word}")  # fmt: skip


def _rights(asker: Asker) -> Floats:
    """(n,) 1 where the nearest of the class means, the text itself left out, is its own."""
    texts = probe_texts()
    states_nH = unit(embed_texts(asker, [text for text, _ in texts])).astype(np.float64)
    return nearest_mean_rights(states_nH, [intent for _, intent in texts])


def nearest_mean_rights(states_nH: Floats, classes: list[str]) -> Floats:
    """(n,) 1 or 0; states of unit length, two or more a class."""
    names, numbers = np.unique(np.array(classes), return_inverse=True)
    sums_CH = np.zeros((len(names), states_nH.shape[1]))
    np.add.at(sums_CH, numbers, states_nH)
    rows = np.arange(len(classes))
    cosines_nC = states_nH @ unit(sums_CH).T
    own_nH = unit(sums_CH[numbers] - states_nH)
    cosines_nC[rows, numbers] = (states_nH * own_nH).sum(axis=1)
    return np.asarray(cosines_nC.argmax(axis=1) == numbers, dtype=np.float64)


def _nats(asker: Asker) -> Floats:
    """(n,) mean surprise of each text's tokens."""
    how = replace(asker.rendering, task="continue", prefers=None)
    rows = render(
        [Example(f"{n}", "probe", text) for n, (text, _) in enumerate(probe_texts())], how
    )
    told = score_rows(asker, rows, lambda share: None)
    return np.array([nats / max(1, count) for nats, count in told])
