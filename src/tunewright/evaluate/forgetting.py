"""What an update costs the tasks that were there before: the matrix of scores, and a gate.

R[i][j] is the score on task j after update i; tasks are learned in the order of the updates.
Definitions of Lopez-Paz and Ranzato 2017 ("Gradient Episodic Memory").
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tunewright.metrics.stats import ALPHA, find_units, paired_share_interval

Array = NDArray[np.float64]
MARGIN = 0.03
LEVEL = 0.1
"""Chance that an update that loses just the margin passes. At 5 % one in eleven harmless updates
would be blocked on 1,000 rows with 10 % discordance, at 10 % one in twenty-three.
"""


@dataclass(frozen=True, slots=True)
class Learning:
    """acc: mean final score over tasks. bwt: mean change of the earlier tasks since each was
    learned, below 0 where they were forgotten. fwt: mean head start of later tasks over the score
    without any learning, nan where that is not given.
    """

    acc: float
    bwt: float
    fwt: float


def summarise(
    scores_UT: Sequence[Sequence[float]], start_T: Sequence[float] | None = None
) -> Learning:
    """ACC, BWT and FWT of a square matrix of scores, one row for each update.

    start_T: score of each task before the first update. Raises ValueError where it is not square.
    """
    matrix = np.array(scores_UT, dtype=np.float64)
    size = len(matrix)
    if matrix.ndim != 2 or matrix.shape != (size, size):
        raise ValueError(f"scores of {matrix.shape} are not one row for each task")
    final = matrix[-1]
    back = float((final - np.diag(matrix))[:-1].mean()) if size > 1 else 0.0
    forward = math.nan
    if start_T is not None and size > 1:
        ahead = np.array([matrix[i - 1, i] for i in range(1, size)])
        forward = float((ahead - np.array(start_T, dtype=np.float64)[1:]).mean())
    return Learning(float(final.mean()), back, forward)


@dataclass(frozen=True, slots=True)
class OldTask:
    """Verdict on one task that was there before. delta: new score less old. p_harm: how surprising
    the losses would be if the update lost less than the margin; blocked where that is small.
    """

    name: str
    n: int
    old: float
    new: float
    delta: float
    ci95: tuple[float, float]
    p_harm: float
    p_worse_than_margin: float
    blocked: bool
    because: str


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether an update may be promoted, and why not."""

    open: bool
    tasks: tuple[OldTask, ...]
    because: tuple[str, ...]


def judge_old_task(
    name: str,
    old_right: Array,
    new_right: Array,
    *,
    groups: Sequence[str | None] | None = None,
    margin: float = MARGIN,
    alpha: float = LEVEL,
) -> OldTask:
    """Paired non-inferiority of the new model on the rows of an old task.

    old_right, new_right: 1 or 0 for each row, the same rows in the same order. The update passes
    only where a loss of `margin` or more is refuted: one-sided score test of Nam 1997 at `alpha`
    (Tango 1998 for the paired difference). With too few rows to refute it, it stays blocked, and
    the message says how many rows would do.
    """
    n = len(old_right)
    difference = np.asarray(new_right - old_right, dtype=np.float64)
    units = find_units(groups if groups is not None else [None] * n)
    gained, lost = int((difference > 0).sum()), int((difference < 0).sum())
    delta = float(difference.mean()) if n else math.nan
    refuted = noninferiority_p(gained, lost, n, margin)
    worse = exact_harm_p(gained, lost)
    blocked = not refuted < alpha
    told = f"{name}: {100 * delta:+.1f} points on {n:,} rows"
    if not blocked:
        because = f"{told}; a loss of {100 * margin:g} points or more is ruled out"
    elif worse < ALPHA:
        because = f"{told}; worse beyond chance (p {worse:.3g})"
    else:
        need = rows_to_refute(gained + lost, n, margin, alpha)
        because = (
            f"{told}; a loss of {100 * margin:g} points cannot be ruled out; about {need:,} rows "
            "would tell"
        )
    old, new = float(np.mean(old_right)), float(np.mean(new_right))
    interval = paired_share_interval(difference, units)
    return OldTask(name, n, old, new, delta, interval, worse, refuted, blocked, because)


def noninferiority_p(gained: int, lost: int, n: int, margin: float) -> float:
    """p of "the new model loses `margin` or more": small where that is refuted.

    Score statistic under the constraint p_gained - p_lost = -margin (Nam 1997, Biometrics 53).
    """
    if n == 0:
        return 1.0
    delta = (gained - lost) / n
    # Maximum likelihood of the share of gains under the constraint: root of a quadratic.
    b = gained * (1 - margin) + lost * (1 + margin) - 2 * n * margin
    root = math.sqrt(b * b + 8 * n * gained * margin * (1 - margin))
    share_gained = (b + root) / (4 * n)
    variance = max(2 * share_gained + margin - margin**2, 1e-12) / n
    return float(special.ndtr(-(delta + margin) / math.sqrt(variance)))


def exact_harm_p(gained: int, lost: int) -> float:
    """One-sided exact McNemar p of "the new model is no worse"."""
    both = gained + lost
    return float(special.bdtrc(lost - 1, both, 0.5)) if lost > 0 else 1.0


def rows_to_refute(discordant: int, n: int, margin: float, alpha: float = LEVEL) -> int:
    """Rows with which an update that changes nothing on average passes 9 times in 10."""
    share = max(discordant / max(n, 1), 1 / max(n, 1))
    z = float(special.ndtri(1 - alpha) + special.ndtri(0.9))
    return math.ceil(z * z * share / margin**2)


def open_gate(
    old_tasks: Mapping[str, tuple[Array, Array]],
    *,
    groups: Mapping[str, Sequence[str | None]] | None = None,
    margin: float = MARGIN,
    alpha: float = LEVEL,
) -> Gate:
    """The gate over all old tasks; every one of them must pass, so no correction is needed.

    old_tasks: name to (old_right, new_right). An empty table leaves the gate open.
    """
    told = tuple(
        judge_old_task(name, old, new, groups=(groups or {}).get(name), margin=margin, alpha=alpha)
        for name, (old, new) in old_tasks.items()
    )
    return Gate(
        open=not any(task.blocked for task in told),
        tasks=told,
        because=tuple(task.because for task in told if task.blocked)
        or tuple(task.because for task in told),
    )
