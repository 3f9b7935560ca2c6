"""GO, MORE DATA or STOP: what a few small pilots say about the whole run.

The questions in their order: does the curve rise at all above answering without reading (STOP)?
Will all rows lift it above the strongest baseline (STOP)? Is it still steep there (MORE DATA)?
Numbers in, an answer out; nothing here trains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tunewright.decide.curves import MAX_REACH, Forecast, Goal, Point, draw_losses, forecast

Answer = Literal["GO", "MORE DATA", "STOP"]
DEFAULT_SHARES = (1 / 32, 1 / 16, 1 / 8)
THOROUGH_SHARES = (1 / 8, 1 / 4, 1 / 2)
LEAST_ROWS = 8
RATE_FACTORS = (1 / 3, 1.0, 3.0)
RATE_CHECK_EPOCHS = 1 / 4
"""Passes of a learning-rate check, as a share of a whole run's: all three rates cost as much as a
pilot on a 43rd of the rows."""
WORTH = 0.02
"""A doubling that buys less than this share of the metric's range is a flat curve."""
SURE_ABOVE_FLOOR = 2.326
"""Standard errors above the floor before a pilot counts as having learned: one-sided 1 %."""
HOPELESS = 0.1
"""Below this chance of beating the strongest baseline at all rows the answer is STOP."""
SURE_STEEP = 0.75
"""Chance that a doubling is worth it from which on the curve is called steep: noise alone makes
pilots rise now and then."""
OVERFITS_BELOW = 0.2
"""A batch counts as learned by heart when its loss falls below this share of the first."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """A rival's score on the rows that pilots are judged on. floor: it answers without reading."""

    name: str
    value: float
    deviation: float
    floor: bool


@dataclass(frozen=True, slots=True)
class Overfit:
    """One batch learned by heart: the first and the least loss, in nats; passed: it was."""

    first_loss: float
    least_loss: float
    steps: int

    @property
    def passed(self) -> bool:
        """True where the loss fell below OVERFITS_BELOW of the first, or nearly to nothing."""
        return self.least_loss <= max(OVERFITS_BELOW * self.first_loss, 0.05)


@dataclass(frozen=True, slots=True)
class RateCheck:
    """Validation loss after the same short training at three learning rates; what was chosen."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    chosen: float
    reason: str


@dataclass(frozen=True, slots=True)
class MoreRows:
    """What this many rows would score; inside the reach of the pilots, with a band."""

    num_rows: int
    value: float
    band90: tuple[float, float]
    gain: float


@dataclass(frozen=True, slots=True)
class PilotAnswer:
    """The answer and its evidence. chance: that all rows beat the strongest baseline."""

    answer: Answer
    forecast: Forecast
    strongest: Baseline | None
    chance: float | None
    more: tuple[MoreRows, ...]
    because: tuple[str, ...]


def pilot_shares(*, thorough: bool) -> tuple[float, ...]:
    """The shares of the rows that pilots train on, smallest first."""
    return THOROUGH_SHARES if thorough else DEFAULT_SHARES


def pilot_rows(num_rows: int, *, thorough: bool) -> tuple[int, ...]:
    """Rows of each pilot. Raises ValueError where the smallest would be too small to learn from."""
    rows = tuple(round(share * num_rows) for share in pilot_shares(thorough=thorough))
    if rows[0] < LEAST_ROWS:
        raise ValueError(
            f"{num_rows} rows: the smallest pilot would have {rows[0]}, and {LEAST_ROWS} is the "
            "least; train at once, so small a run costs little"
        )
    return rows


def pilot_cost(*, thorough: bool, check_rate: bool) -> float:
    """Row passes of the pilots and the rate check, as a share of the whole run's."""
    shares = pilot_shares(thorough=thorough)
    check = len(RATE_FACTORS) * RATE_CHECK_EPOCHS * DEFAULT_SHARES[0] if check_rate else 0.0
    return sum(shares) + check


def choose_rate(rates: Sequence[float], losses: Sequence[float], usual: float) -> RateCheck:
    """The usual rate unless another is clearly better: 5 % less loss. nan is a rate that diverged.

    Three short trainings are noisy, and the usual rate comes from many long ones.
    """
    known = {rate: loss for rate, loss in zip(rates, losses, strict=True) if math.isfinite(loss)}
    if not known:
        return RateCheck(tuple(rates), tuple(losses), min(rates), "every rate diverged; the least")
    best = min(known, key=lambda rate: known[rate])
    at_usual = known.get(usual, math.inf)
    if best != usual and known[best] < 0.95 * at_usual:
        how = "diverged" if math.isinf(at_usual) else f"{at_usual:.4g}"
        reason = f"loss {known[best]:.4g} against {how} at the usual {usual:g}"
        return RateCheck(tuple(rates), tuple(losses), best, reason)
    return RateCheck(tuple(rates), tuple(losses), usual, "no other rate is clearly better")


def unit_of(goal: Goal, value: float) -> float:
    """What a whole is: the metric's best value, or for losses without end the value itself."""
    return abs(goal.best) if goal.best else max(abs(value), 1e-9)


def decide(
    points: Sequence[Point],
    baselines: Sequence[Baseline],
    goal: Goal,
    num_rows: int,
    *,
    worth: float = WORTH,
    seed: int = 17,
) -> PilotAnswer:
    """GO, MORE DATA or STOP for a run on num_rows rows.

    worth: what a doubling of the rows must buy to be called steep, a share of the metric's range.
    Raises ValueError where num_rows lies beyond the reach of the pilots.
    """
    made = forecast(points, goal, num_rows, seed=seed)
    unit = unit_of(goal, made.value)
    strongest = _strongest(baselines, goal)
    chance = None if strongest is None else _chance(points, strongest, goal, num_rows, seed)
    floor = _strongest([item for item in baselines if item.floor], goal)
    if floor is not None and not _learned(points, floor, goal):
        because = _nothing_learned(points, floor, goal)
        return PilotAnswer("STOP", made, strongest, chance, (), because)
    if strongest is not None and chance is not None and chance < HOPELESS:
        because = (
            f"the forecast at all rows does not reach {strongest.name}: "
            f"the chance of beating it is {chance:.0%}",
        )
        return PilotAnswer("STOP", made, strongest, chance, (), because)
    more = _more_rows(points, goal, num_rows, made, seed)
    steep = made.monotone and made.per_doubling >= worth * unit
    if steep and _chance_of_gain(points, goal, num_rows, worth * unit, seed) >= SURE_STEEP:
        because = (
            "the curve is still steep at all rows: twice as many would add "
            f"{made.per_doubling / unit:.1%} of the metric's range",
        )
        return PilotAnswer("MORE DATA", made, strongest, chance, more, because)
    return PilotAnswer("GO", made, strongest, chance, more, _go(made, strongest, chance, unit))


def _strongest(baselines: Sequence[Baseline], goal: Goal) -> Baseline | None:
    known = [item for item in baselines if math.isfinite(item.value)]
    return min(known, key=lambda item: float(goal.loss(item.value)), default=None)


def _chance(
    points: Sequence[Point], rival: Baseline, goal: Goal, num_rows: int, seed: int
) -> float:
    """The share of drawn scores at all rows that beat a drawn score of the rival."""
    drawn = draw_losses(points, goal, num_rows, seed=seed)
    dice = np.random.default_rng(seed + 1)
    against = goal.loss(rival.value) + rival.deviation * dice.standard_normal(drawn.size)
    return float(np.mean(drawn < against))


def _chance_of_gain(
    points: Sequence[Point], goal: Goal, num_rows: int, gain: float, seed: int
) -> float:
    """The share of drawn curves on which a doubling around num_rows buys at least `gain`."""
    before = draw_losses(points, goal, num_rows / math.sqrt(2), seed=seed)
    after = draw_losses(points, goal, num_rows * math.sqrt(2), seed=seed)
    return float(np.mean(before - after >= gain))


def _learned(points: Sequence[Point], floor: Baseline, goal: Goal) -> bool:
    """True where the largest pilot lies above the floor beyond chance."""
    last = max(points, key=lambda point: point.num_rows)
    noise = math.hypot(last.deviation, floor.deviation)
    return goal.gain(last.value, floor.value) > SURE_ABOVE_FLOOR * noise


def _nothing_learned(points: Sequence[Point], floor: Baseline, goal: Goal) -> tuple[str, ...]:
    last = max(points, key=lambda point: point.num_rows)
    return (
        f"{last.num_rows} rows taught nothing: {goal.metric} {last.value:.4g} is not above "
        f"{floor.name} ({floor.value:.4g}), which does not read the input",
        "check that the labels belong to the texts; if they do, this base cannot learn the task",
    )


def _go(
    made: Forecast, strongest: Baseline | None, chance: float | None, unit: float
) -> tuple[str, ...]:
    because = []
    if not made.monotone:
        because.append("a larger pilot was worse than a smaller one: no power law was fitted")
    else:
        because.append(
            f"the curve is flat at all rows: twice as many would add {made.per_doubling / unit:.1%}"
        )
    if strongest is not None and chance is not None:
        because.append(f"the chance of beating {strongest.name} is {chance:.0%}")
        if chance < 0.8:
            because.append("that is not sure; --thorough tells more before the whole run is paid")
    return tuple(because)


def _more_rows(
    points: Sequence[Point], goal: Goal, num_rows: int, made: Forecast, seed: int
) -> tuple[MoreRows, ...]:
    """Forecasts at two, four and eight times the rows, as far as the pilots reach."""
    reach = MAX_REACH * max(point.num_rows for point in points)
    found = []
    for factor in (2, 4, 8):
        if factor * num_rows <= reach and made.monotone:
            there = forecast(points, goal, factor * num_rows, seed=seed)
            gain = goal.gain(there.value, made.value)
            found.append(MoreRows(factor * num_rows, there.value, there.band90, gain))
    return tuple(found)
