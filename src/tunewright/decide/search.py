"""Which trials of a search deserve more rows, and what a study has shown. Numbers in, numbers out.

ASHA and Hyperband promote a trial when its score is among the best 1/eta at its rung (Li et al.
2020). Here the score is where the trial's learning curve leads, not where it stands: a low learning
rate is behind on few rows and ahead on many.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tunewright.decide.choose import expected_loss
from tunewright.decide.curves import Goal, Point

ETA = 3
"""One trial in three goes on to the next rung."""
RUNG_SHARES = (1 / 9, 1 / 3, 1.0)
LEAST_ROWS = 32
Promotion = Literal["asha", "hyperband", "none"]


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One trial of a study: its settings, its curve, and how it ended."""

    number: int
    state: str
    params: Mapping[str, Any]
    points: tuple[Point, ...]
    value: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class RangePoint:
    """One learning rate of a range test: the smoothed loss there."""

    rate: float
    loss: float


@dataclass(frozen=True, slots=True)
class RangeTest:
    """What a learning-rate range test found: between `low` and `high` training works."""

    low: float
    high: float
    steepest: float
    curve: tuple[RangePoint, ...]


def rungs_for(num_rows: int, promotion: Promotion, number: int = 0) -> tuple[int, ...]:
    """Rows of each rung of the trial with this number, all rows last.

    none: all rows at once. hyperband: brackets take turns, each skipping one more of the early
    rungs, so that a curve that starts slowly has a chance somewhere.
    """
    if promotion == "none":
        return (num_rows,)
    skipped = number % len(RUNG_SHARES) if promotion == "hyperband" else 0
    sizes = [max(LEAST_ROWS, round(share * num_rows)) for share in RUNG_SHARES[skipped:]]
    return tuple(dict.fromkeys(min(size, num_rows) for size in sizes))


def goes_on(
    mine: Sequence[Point], others: Sequence[Sequence[Point]], goal: Goal, num_rows: int
) -> bool:
    """True where the trial's extrapolated loss is among the best 1/ETA of all at its rung.

    others: curves of earlier trials; only what they measured up to this rung is compared. With
    fewer than ETA trials at the rung nobody is stopped: there is no quantile yet.
    """
    rung = max(point.num_rows for point in mine)
    rivals = [
        [point for point in curve if point.num_rows <= rung]
        for curve in others
        if any(point.num_rows == rung for point in curve)
    ]
    losses = [expected_loss(curve, goal, num_rows) for curve in rivals]
    if len(losses) + 1 < ETA:
        return True
    own = expected_loss(mine, goal, num_rows)
    better = sum(loss < own - 1e-12 for loss in losses)
    return better < max(1, (len(losses) + 1) // ETA)


def find_range(rates: Sequence[float], losses: Sequence[float]) -> RangeTest:
    """Where a ramp of the learning rate falls fastest, and where it begins to hurt.

    The loss is smoothed (Smith 2017, with the exponential average of later practice). low: the rate
    where the loss has fallen by a tenth of its whole fall; high: a third of the rate with the
    least loss, for at the least it is already about to rise. Raises ValueError for too few points.
    """
    if len(rates) < 5:
        raise ValueError("a range test needs five steps or more")
    smooth, average, weight = [], 0.0, 0.0
    for loss in losses:
        value = loss if math.isfinite(loss) else max([x for x in losses if math.isfinite(x)]) * 4
        average, weight = 0.8 * average + 0.2 * value, 0.8 * weight + 0.2
        smooth.append(average / weight)
    least = min(range(len(smooth)), key=lambda i: smooth[i])
    fall = smooth[0] - smooth[least]
    slopes = [smooth[i + 1] - smooth[i] for i in range(max(1, least))]
    steepest = rates[min(range(len(slopes)), key=lambda i: slopes[i])]
    begins = next((i for i in range(least + 1) if smooth[0] - smooth[i] >= 0.1 * fall), 0)
    high = max(rates[least] / 3, rates[begins])
    curve = tuple(RangePoint(r, s) for r, s in zip(rates, smooth, strict=True))
    return RangeTest(rates[begins], high, steepest, curve)


def best_trial(rows: Sequence[TrialRow], goal: Goal) -> TrialRow | None:
    """The finished trial with the best validation score on all rows; ties go to the earlier."""
    done = [row for row in rows if row.state == "complete" and row.value is not None]
    return min(done, key=lambda row: (float(goal.loss(row.value or 0.0)), row.number), default=None)
