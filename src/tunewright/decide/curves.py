"""Learning curves: power laws through a few pilot scores, and how far to trust them.

What is fitted is the distance to a perfect score, y = best - value: y = a n^-b (two parameters)
and y = c + a n^-b (three). Their mean is the forecast: over six curves of three learners it erred
by less than either form. Numbers in, numbers out; nothing here trains.

Shapes: P points, R resamples, G grid.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MAX_REACH = 8.0
"""A forecast goes no further than this many times the largest pilot."""
RESAMPLES = 2000
STEEPEST = 1.5
"""Largest exponent that is believed; language models lie between 0.05 and 0.6."""
FLOORS = np.linspace(0.0, 0.95, 20)
"""Asymptotes that the three-parameter form tries, as shares of the smallest loss seen."""
PER_DOUBLING = 0.035
"""Standard deviation of the log loss that a forecast gains with each doubling it reaches beyond the
last pilot, for scores that count rows."""
TRAINING_NOISE = 0.03
"""Standard deviation of the log loss between two trainings that differ in their seed alone."""
SMOOTH_PER_DOUBLING, SMOOTH_NOISE = 0.013, 0.006
"""The same for losses per token or byte, which hardly differ between seeds: with them 90 % bands
hold about nine in ten of 90 published curves (bench/choose_replay.py)."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A metric as a curve sees it: its name, its best value, and which way is better.

    smooth: a mean over so many tokens that two trainings hardly differ.
    """

    metric: str
    best: float
    higher_is_better: bool
    smooth: bool = False

    @property
    def noise(self) -> float:
        """Standard deviation of the log loss between seeds."""
        return SMOOTH_NOISE if self.smooth else TRAINING_NOISE

    @property
    def per_doubling(self) -> float:
        """Standard deviation of the log loss per doubling beyond the last pilot."""
        return SMOOTH_PER_DOUBLING if self.smooth else PER_DOUBLING

    def loss(self, value: Floats | float) -> Floats:
        """Distance to the best value, 0 or more."""
        sign = 1.0 if self.higher_is_better else -1.0
        return np.maximum(sign * (self.best - np.asarray(value, dtype=np.float64)), 0.0)

    def value(self, loss: Floats | float) -> Floats:
        """The value at this distance."""
        sign = 1.0 if self.higher_is_better else -1.0
        return self.best - sign * np.asarray(loss, dtype=np.float64)

    def gain(self, value: float, over: float) -> float:
        """How much better a value is than another; negative where it is worse."""
        return value - over if self.higher_is_better else over - value


@dataclass(frozen=True, slots=True)
class Point:
    """One pilot: rows trained on, the score, and its standard error from the judged rows."""

    num_rows: int
    value: float
    deviation: float = 0.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """A score that was not measured. band90 holds it in nine of ten cases.

    per_doubling: what twice the rows would add there, by the slope; with its own band.
    exponent: of the two-parameter form. monotone: the pilots do not contradict a power law.
    """

    num_rows: int
    value: float
    band90: tuple[float, float]
    per_doubling: float
    per_doubling_band90: tuple[float, float]
    exponent: float
    monotone: bool


def fit_two(sizes: Sequence[float], losses_RP: Floats) -> tuple[Floats, Floats]:
    """(log a, b) of y = a n^-b by least squares on logarithms, one per row of losses."""
    x_P = np.log(np.asarray(sizes, dtype=np.float64))
    y_RP = np.log(losses_RP)
    centred_P = x_P - x_P.mean()
    slope_R = (y_RP @ centred_P) / float(centred_P @ centred_P)
    b_R = np.clip(-slope_R, 0.0, STEEPEST)
    return y_RP.mean(axis=1) + b_R * x_P.mean(), b_R


def fit_three(sizes: Sequence[float], losses_RP: Floats) -> tuple[Floats, Floats, Floats]:
    """(c, log a, b) of y = c + a n^-b: least squares of the logarithms over a grid of c.

    With two points, or where no positive c helps, c is 0 and the form is the two-parameter one.
    """
    x_P = np.log(np.asarray(sizes, dtype=np.float64))
    floors_RG = losses_RP.min(axis=1, keepdims=True) * (FLOORS if len(x_P) > 2 else FLOORS[:1])
    above_RGP = losses_RP[:, None, :] - floors_RG[:, :, None]
    logs_RGP = np.log(above_RGP)
    centred_P = x_P - x_P.mean()
    b_RG = np.clip(-(logs_RGP @ centred_P) / float(centred_P @ centred_P), 0.0, STEEPEST)
    log_a_RG = logs_RGP.mean(axis=2) + b_RG * x_P.mean()
    fitted_RGP = floors_RG[:, :, None] + np.exp(log_a_RG[:, :, None] - b_RG[:, :, None] * x_P)
    errors_RG = np.square(np.log(fitted_RGP) - np.log(losses_RP[:, None, :])).sum(axis=2)
    # Of floors that fit alike the lowest is taken: the first, for argmin takes the first.
    best_R = np.round(errors_RG, 9).argmin(axis=1)
    rows_R = np.arange(len(losses_RP))
    return floors_RG[rows_R, best_R], log_a_RG[rows_R, best_R], b_RG[rows_R, best_R]


def extrapolate(
    sizes: Sequence[float],
    losses_RP: Floats,
    at: float,
    *,
    weight: Floats | float = 0.5,
    smooth: bool = False,
) -> Floats:
    """(R,) losses at `at` rows: `weight` of the two-parameter form, the rest of the other.

    Unless smooth, a curve that still grows steeper (its last slope above that of the whole line, as
    at the beginning of many classes) is taken halfway between the line and its last slope, in logs.
    """
    losses_RP = np.maximum(np.atleast_2d(losses_RP), 1e-9)
    if losses_RP.shape[1] == 1:
        return np.asarray(losses_RP[:, 0])
    log_a, b = fit_two(sizes, losses_RP)
    two_R = np.exp(log_a - b * math.log(at))
    c, log_a3, b3 = fit_three(sizes, losses_RP)
    three_R = c + np.exp(log_a3 - b3 * math.log(at))
    mixed_R = np.asarray(weight * two_R + (1.0 - weight) * three_R)
    if smooth or losses_RP.shape[1] < 3:
        return mixed_R
    log_last = np.log(losses_RP[:, -1])
    step = math.log(sizes[-1] / sizes[-2])
    last_b = np.clip((np.log(losses_RP[:, -2]) - log_last) / step, 0.0, STEEPEST)
    ahead_R = np.exp(log_last - last_b * math.log(at / sizes[-1]))
    return np.where(last_b > b, np.sqrt(two_R * ahead_R), mixed_R)


def line_extrapolation(sizes: Sequence[float], losses: Sequence[float], at: float) -> float:
    """The two-parameter form alone: what ranks candidates best far beyond the pilots."""
    log_a, b = fit_two(sizes, np.maximum(np.atleast_2d(np.asarray(losses)), 1e-9))
    return float(np.exp(log_a[0] - b[0] * math.log(at)))


def is_monotone(points: Sequence[Point], goal: Goal) -> bool:
    """False where a larger pilot is worse beyond what chance explains (one-sided 5 %).

    About one curve in seven is ill-behaved (LCDB 1.1), and a power law through it means nothing.
    """
    ordered = sorted(points, key=lambda point: point.num_rows)
    for smaller, larger in itertools.pairwise(ordered):
        noise = math.hypot(
            smaller.deviation, larger.deviation,
            goal.noise * math.sqrt(2) * float(goal.loss(smaller.value)),
        )  # fmt: skip
        if goal.gain(larger.value, smaller.value) < -1.645 * noise - 1e-12:
            return False
    return True


def draw_losses(
    points: Sequence[Point], goal: Goal, at: float, *, seed: int, resamples: int = RESAMPLES
) -> Floats:
    """(R,) possible losses at `at` rows: pilot noise, the form of the law, and its reach.

    A parametric bootstrap: pilots are drawn again within their standard errors and between seeds,
    the share of each form is drawn evenly, and every doubling beyond the last pilot adds its own
    uncertainty.
    """
    dice = np.random.default_rng(seed)
    ordered = sorted(points, key=lambda point: point.num_rows)
    sizes = [point.num_rows for point in ordered]
    known_P = goal.loss(np.array([point.value for point in ordered]))
    deviations_P = np.array([point.deviation for point in ordered])
    smallest = max(1e-6, 0.25 * float(deviations_P.max(initial=0.0)), 1e-3 * float(known_P.max()))
    noisy_RP = known_P + dice.standard_normal((resamples, len(sizes))) * deviations_P
    noisy_RP *= np.exp(goal.noise * dice.standard_normal((resamples, len(sizes))))
    noisy_RP = np.maximum(noisy_RP, smallest)
    drawn_R = extrapolate(sizes, noisy_RP, at, weight=dice.random(resamples), smooth=goal.smooth)
    reach = max(0.0, math.log2(at / sizes[-1]))
    spread = goal.per_doubling * reach
    return np.asarray(drawn_R * np.exp(spread * dice.standard_normal(resamples)))


def forecast(points: Sequence[Point], goal: Goal, at: int, *, seed: int = 17) -> Forecast:
    """The score at `at` rows with its 90 % band.

    Where the pilots contradict a power law the forecast is their last score, and its band holds
    every pilot. Raises ValueError beyond MAX_REACH times the largest pilot, or with one point.
    """
    ordered = sorted(points, key=lambda point: point.num_rows)
    if len(ordered) < 2:
        raise ValueError("a learning curve needs two pilots or more")
    if at > MAX_REACH * (ordered[-1].num_rows + 1):  # an eighth of the rows is a whole number
        raise ValueError(
            f"{at} rows are more than {MAX_REACH:g} times the largest pilot, "
            f"{ordered[-1].num_rows}; no forecast reaches so far"
        )
    sizes = [point.num_rows for point in ordered]
    losses = goal.loss(np.array([point.value for point in ordered]))
    drawn = draw_losses(ordered, goal, at, seed=seed)
    if not is_monotone(ordered, goal):
        last = ordered[-1]
        ends = [p.value + sign * 1.645 * p.deviation for p in ordered for sign in (-1, 1)]
        return Forecast(at, last.value, (min(ends), max(ends)), 0.0, (0.0, 0.0), 0.0, False)
    central = float(extrapolate(sizes, losses[None], at, smooth=goal.smooth)[0])
    # The slope at `at`, not a score beyond it: half a doubling to either side.
    before = draw_losses(ordered, goal, at / math.sqrt(2), seed=seed, resamples=RESAMPLES)
    after = draw_losses(ordered, goal, at * math.sqrt(2), seed=seed, resamples=RESAMPLES)
    around = (at / math.sqrt(2), at * math.sqrt(2))
    ends_of = [float(extrapolate(sizes, losses[None], n, smooth=goal.smooth)[0]) for n in around]
    slope = ends_of[0] - ends_of[1]
    low, high = np.quantile(drawn, [0.05, 0.95])
    ends = sorted((float(goal.value(high)), float(goal.value(low))))
    gains = np.quantile(before - after, [0.05, 0.95])
    return Forecast(
        num_rows=at,
        value=float(goal.value(central)),
        band90=(ends[0], ends[1]),
        per_doubling=slope,
        per_doubling_band90=(max(0.0, float(gains[0])), float(gains[1])),
        exponent=float(fit_two(sizes, np.maximum(losses[None], 1e-9))[1][0]),
        monotone=True,
    )
