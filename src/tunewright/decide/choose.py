"""Which base: halving by extrapolation, and the choice of the smallest that is not worse.

A candidate that learns slowly but far is behind in every short pilot. So rungs of a successive
halving promote by the power law through a candidate's pilots, read at all rows, not by the pilot
score: on 90 published curves of 30 language models that finds 1.000, .996 and 1.000 of the best at
15 % of the cost, where raw scores find .932, .996 and .943 (bench/choose_replay.py).
Numbers in, decisions out; nothing here trains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tunewright.decide.curves import Goal, Point, draw_losses, extrapolate, line_extrapolation

SHORTEST_SHARE = 1 / 256
"""The smallest last pilot of a first rung, as a share of all rows."""
PILOTS_PER_RUNG = 3


@dataclass(frozen=True, slots=True)
class Rung:
    """One round of a halving: at most `keep` candidates are trained on `share` of the rows.

    Each has pilots at a quarter and half of that share too, for a line needs three points.
    """

    share: float
    keep: int

    @property
    def shares(self) -> tuple[float, ...]:
        """The pilots' shares of the rows, smallest first; a whole training needs no line."""
        if self.share >= 1.0:
            return (1.0,)
        return (self.share / 4, self.share / 2, self.share)


def ladder_cost(rungs: Sequence[Rung]) -> float:
    """Cost in whole trainings; a pilot that an earlier rung made is not made again."""
    total, known = 0.0, set[float]()
    for rung in rungs:
        fresh = [share for share in rung.shares if share not in known]
        total += rung.keep * sum(fresh)
        known |= set(rung.shares)
    return total


def plan_ladder(
    num_candidates: int, *, num_rows: int, least_rows: int, budget_share: float
) -> tuple[Rung, ...]:
    """The rungs whose last one reaches furthest within budget_share of training every candidate.

    least_rows: the smallest pilot that says anything. Candidates fall geometrically from rung to
    rung to two, or to one where there is one only. Where even the shortest ladder costs more than
    the budget it is taken all the same: three pilots are the least that a line needs.
    """
    first = max(SHORTEST_SHARE, min(1.0, 4.0 * least_rows / max(1, num_rows)))
    best: tuple[Rung, ...] = (Rung(first, num_candidates),)
    for ratio in (4.0, 2.0):
        for count in range(2, 10):
            top = first * ratio ** (count - 1)
            if top > 1.0 + 1e-9:
                break
            ladder = _ladder(num_candidates, first, ratio, count)
            if ladder_cost(ladder) > budget_share * num_candidates + 1e-9:
                continue
            if top > best[-1].share or (
                top == best[-1].share and ladder_cost(ladder) < ladder_cost(best)
            ):
                best = ladder
    return best


def _ladder(num_candidates: int, first: float, ratio: float, count: int) -> tuple[Rung, ...]:
    last = min(2, num_candidates)
    fall = (last / num_candidates) ** (1.0 / (count - 1))
    return tuple(
        Rung(min(1.0, first * ratio**i), max(last, math.floor(num_candidates * fall**i + 1e-9)))
        for i in range(count)
    )


def expected_loss(points: Sequence[Point], goal: Goal, num_rows: int) -> float:
    """The loss at num_rows that ranks a candidate: measured there, or by the line through the last
    three pilots. A single pilot stands for itself.
    """
    ordered = sorted(points, key=lambda point: point.num_rows)[-PILOTS_PER_RUNG:]
    if ordered[-1].num_rows >= num_rows or len(ordered) == 1:
        return float(goal.loss(ordered[-1].value))
    losses = [float(goal.loss(point.value)) for point in ordered]
    return line_extrapolation([point.num_rows for point in ordered], losses, num_rows)


def promote(
    curves: Mapping[str, Sequence[Point]], goal: Goal, num_rows: int, keep: int
) -> list[str]:
    """The `keep` candidates with the best extrapolated score, best first; ties go by name."""
    ranked = sorted(curves, key=lambda name: (expected_loss(curves[name], goal, num_rows), name))
    return ranked[:keep]


@dataclass(frozen=True, slots=True)
class Contender:
    """A candidate that may be chosen: its curve and its size."""

    name: str
    num_parameters: int
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen. value and band90: at all rows. regret: how much worse than the best of all
    the winner is to be expected, in the metric's unit. best: the likeliest best, whatever its size.
    """

    winner: str
    runner_up: str | None
    best: str
    value: Mapping[str, float]
    band90: Mapping[str, tuple[float, float]]
    chance_best: Mapping[str, float]
    expected_regret: float
    because: tuple[str, ...]


def choose(
    contenders: Sequence[Contender],
    goal: Goal,
    num_rows: int,
    *,
    margin: float,
    smallest: bool = True,
    seed: int = 17,
) -> Choice:
    """The contender to train. smallest: take the one with the fewest parameters whose expected
    shortfall against the likeliest best is at most `margin`, in the metric's unit; else that best.

    Raises ValueError without contenders.
    """
    if not contenders:
        raise ValueError("nobody to choose from")
    names = [item.name for item in contenders]
    losses = {item.name: _final_losses(item, goal, num_rows, seed + i)
              for i, item in enumerate(contenders)}  # fmt: skip
    centre = {item.name: _central_loss(item, goal, num_rows) for item in contenders}
    table = np.stack([losses[name] for name in names])
    best = min(names, key=lambda name: (centre[name], name))
    chosen = best
    if smallest:
        able = [item for item in contenders if centre[item.name] - centre[best] <= margin + 1e-12]
        chosen = min(able, key=lambda item: (item.num_parameters, centre[item.name])).name
    others = [name for name in names if name != chosen]
    runner_up = min(others, key=lambda name: (centre[name], name)) if others else None
    regret = float(np.mean(losses[chosen] - table.min(axis=0)))
    wins = np.bincount(table.argmin(axis=0), minlength=len(names)) / table.shape[1]
    bands = {}
    for name in names:
        low, high = np.quantile(losses[name], [0.05, 0.95])
        ends = sorted((float(goal.value(high)), float(goal.value(low))))
        bands[name] = (ends[0], ends[1])
    return Choice(
        winner=chosen,
        runner_up=runner_up,
        best=best,
        value={name: float(goal.value(centre[name])) for name in names},
        band90=bands,
        chance_best={name: float(share) for name, share in zip(names, wins, strict=True)},
        expected_regret=regret,
        because=_reasons(chosen, best, contenders),
    )


def _reasons(chosen: str, best: str, contenders: Sequence[Contender]) -> tuple[str, ...]:
    if chosen == best:
        return (f"{chosen} has the best expected score",)
    sizes = {item.name: item.num_parameters for item in contenders}
    share = sizes[chosen] / max(1, sizes[best])
    return (
        f"{best} has the best expected score",
        f"{chosen} is not worse within the margin and has {share:.0%} of its parameters",
    )


def _central_loss(item: Contender, goal: Goal, num_rows: int) -> float:
    """As forecast: the mean of both forms through all pilots, or what was measured."""
    ordered = sorted(item.points, key=lambda point: point.num_rows)
    if ordered[-1].num_rows >= num_rows or len(ordered) < 2:
        return float(goal.loss(ordered[-1].value))
    losses = goal.loss(np.array([point.value for point in ordered]))
    sizes = [point.num_rows for point in ordered]
    return float(extrapolate(sizes, losses[None], num_rows, smooth=goal.smooth)[0])


def _final_losses(item: Contender, goal: Goal, num_rows: int, seed: int) -> np.ndarray:
    ordered = sorted(item.points, key=lambda point: point.num_rows)
    if ordered[-1].num_rows >= num_rows or len(ordered) < 2:
        return draw_losses((ordered[-1],), goal, ordered[-1].num_rows, seed=seed)
    return draw_losses(ordered, goal, num_rows, seed=seed)
