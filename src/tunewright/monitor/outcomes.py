"""What came true: labels that arrive late, rows sent for review, and an interval that may be looked
at whenever one likes.

Shapes: n rows, S strata.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunewright.records import Request

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
LEVEL = 0.05
NUM_STRATA = 4
GRID = 1001
"""Candidate accuracies that the confidence sequence tests, 0.1 point apart."""


def is_right(item: Request) -> float:
    """1 or 0 where the right answer of a request is known, else nan."""
    if item.label is None:
        return math.nan
    return float(_comparable(item.answer) == _comparable(item.label))


def _comparable(value: object) -> object:
    if isinstance(value, (tuple, list)):
        return frozenset(value)
    return value.strip() if isinstance(value, str) else value


@dataclass(frozen=True)
class Review:
    """Rows sent to a person. chosen: row numbers; weight: 1 / chance that the row was chosen."""

    chosen: Ints
    weight: Floats


def choose_for_review(
    confidence_n: Floats, count: int, *, num_strata: int = NUM_STRATA, seed: int = 17
) -> Review:
    """`count` rows, stratified by confidence: more where more answers are likely wrong.

    Strata are quantiles of confidence; rows go to each in proportion to its size times the
    deviation of right and wrong that its confidence lets expect (Neyman 1934), at least one each.
    Rows without a confidence are one stratum of their own.
    """
    n = len(confidence_n)
    if count >= n:
        return Review(np.arange(n), np.ones(n))
    rng = np.random.default_rng(seed)
    filled = np.where(np.isfinite(confidence_n), confidence_n, -1.0)
    edges = np.unique(np.quantile(filled, np.linspace(0, 1, num_strata + 1)[1:-1]))
    stratum = np.searchsorted(edges, filled, side="right")
    names, sizes = np.unique(stratum, return_counts=True)
    middle = np.array([np.clip(filled[stratum == name].mean(), 0.02, 0.98) for name in names])
    takes = _shares_of(count, sizes, sizes * np.sqrt(middle * (1 - middle)))
    chosen, weight = [], []
    for name, size, take in zip(names, sizes, takes, strict=True):
        members = np.flatnonzero(stratum == name)
        chosen.append(rng.choice(members, take, replace=False))
        weight.append(np.full(take, size / max(take, 1)))
    return Review(np.concatenate(chosen), np.concatenate(weight))


def _shares_of(count: int, sizes: Ints, wish: Floats) -> Ints:
    """Whole numbers that sum to count, near to the wish, at least 1 and at most the size."""
    takes = np.minimum(sizes, np.maximum(1, np.floor(count * wish / wish.sum()))).astype(np.int64)
    while takes.sum() < count:
        lack = np.where(takes < sizes, wish * count / wish.sum() - takes, -np.inf)
        takes[int(lack.argmax())] += 1
    while takes.sum() > count:
        excess = np.where(takes > 1, takes - wish * count / wish.sum(), -np.inf)
        takes[int(excess.argmax())] -= 1
    return np.asarray(takes)


def confidence_sequence(
    right_n: Floats, weight_n: Floats | None = None, *, level: float = LEVEL
) -> tuple[float, float]:
    """Interval of the accuracy that holds at every moment at once with chance 1 - level.

    Betting (Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by
    betting"): for each candidate accuracy a gambler bets against it with the hedged plug-in stake;
    candidates against which a fortune of 1 / level was ever made are out. Looking as often as one
    likes costs nothing. right_n: 0 ... 1 in order of arrival.
    weight_n: 1 / chance of review over the mean of that; the weighted values are scaled into 0 ...
    1 by the largest weight, which keeps the guarantee for any sampling that weights undo.
    (0, 1) without rows.
    """
    n = len(right_n)
    if n == 0:
        return (0.0, 1.0)
    weight = np.ones(n) if weight_n is None else np.asarray(weight_n, dtype=np.float64)
    largest = float(weight.max())
    values = right_n * weight / largest
    candidates = np.linspace(0, 1, GRID)
    scaled = candidates / largest if largest > 0 else candidates
    alive = _unbeaten(values, scaled, level)
    kept = candidates[alive]
    if kept.size == 0:
        middle = float(np.clip((values.mean()) * largest, 0, 1))
        return (middle, middle)
    step = 1 / (GRID - 1)
    return (max(0.0, float(kept.min()) - step), min(1.0, float(kept.max()) + step))


def _unbeaten(values_n: Floats, candidates_M: Floats, level: float) -> NDArray[np.bool_]:
    """(M,) which candidate means no gambler ever became rich against."""
    n = len(values_n)
    counts = np.arange(1, n + 1)
    means = (0.5 + np.cumsum(values_n)) / (counts + 1)
    spreads = (0.25 + np.cumsum((values_n - means) ** 2)) / (counts + 1)
    before = np.concatenate([[0.25], spreads[:-1]])
    stakes = np.sqrt(2 * math.log(2 / level) / (before * counts * np.log1p(counts)))
    up, down = np.zeros(len(candidates_M)), np.zeros(len(candidates_M))
    best = np.full(len(candidates_M), -np.inf)
    most_up = 0.5 / np.maximum(candidates_M, 1e-9)
    most_down = 0.5 / np.maximum(1 - candidates_M, 1e-9)
    for value, stake in zip(values_n, stakes, strict=True):
        edge = value - candidates_M
        up += np.log1p(np.minimum(stake, most_up) * edge)
        down += np.log1p(-np.minimum(stake, most_down) * edge)
        np.maximum(best, np.logaddexp(up, down) - math.log(2), out=best)
    return best < math.log(1 / level)


def suspicious_clients(
    clients: Sequence[str | None],
    disagrees_n: Floats,
    *,
    level: float = 0.01,
    fewest: int = 10,
) -> list[tuple[str, float, float, int]]:
    """Clients whose corrections contradict a sure model far more often than everyone else's do.

    disagrees_n: 1 where the client's label differs from an answer that should be right (the
    calibrated confidence, or another check). Each client is tested against all others by Fisher's
    exact test, one-sided; p-values are held to `level` over all clients (Holm 1979).
    Returns (client, share, share of the others, rows), worst first.
    """
    from scipy.stats import fisher_exact

    names = sorted({name for name in clients if name is not None})
    who = np.array([name or "" for name in clients])
    found, p_values = [], []
    for name in names:
        mine = who == name
        if mine.sum() < fewest or mine.all():
            continue
        a, b = int(disagrees_n[mine].sum()), int(mine.sum())
        c, d = int(disagrees_n[~mine].sum()), int((~mine).sum())
        p_values.append(float(fisher_exact([[a, b - a], [c, d - c]], "greater")[1]))
        found.append((name, a / b, c / max(d, 1), b))
    from tunewright.metrics.stats import holm

    kept = [item for item, p in zip(found, holm(p_values), strict=True) if p < level]
    return sorted(kept, key=lambda item: -item[1])
