"""When to believe an answer: a threshold from rows that training never saw. Pure functions.

Hand-over and alarms carry a promise: with a probability of 95 % over the choice of those rows, the
wished precision or false-alarm rate holds for further rows of the same kind. Source: Angelopoulos,
Bates, Candès, Jordan and Lei 2021, "Learn then Test" (fixed-sequence tests with several starts,
exact binomial p-values). A threshold by cost is the one that was cheapest on those rows, without a
promise.

Letters: N rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats as distributions

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
DOUBT = 0.05
STARTS = 5
"""Coverages from which the search for a hand-over begins; each is tested at DOUBT / STARTS.

Five answer most on samples of 500 and 1,000 rows (of 1, 2, 3, 5 and 10)."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What errors cost, in any one currency. rate: of the rare label in production; None: as is."""

    miss: float
    false_alarm: float
    rate: float | None = None


def rows_for_promise(error: float, doubt: float = DOUBT) -> int:
    """Faultless rows that it takes to promise that fewer than `error` of answers are wrong."""
    return math.ceil(math.log(doubt) / math.log1p(-error))


def hand_over_below(confidence_N: Array, right_N: Bools, *, precision: float) -> float | None:
    """The lowest confidence at which `precision` of what is answered is right, with the promise.

    What is less sure goes to a person. None where these rows cannot promise it at any confidence.
    """
    order = np.argsort(-confidence_N, kind="stable")
    sorted_N = confidence_N[order]
    ends = np.flatnonzero(np.r_[np.diff(sorted_N) != 0, True])  # equal confidences go together
    answered = ends + 1
    wrong = np.cumsum(~right_N[order])[ends]
    p_values = distributions.binom.cdf(wrong, answered, 1.0 - precision)
    least = rows_for_promise(1.0 - precision, DOUBT / STARTS)
    if len(confidence_N) < least:
        return None
    best = -1
    for start in np.linspace(least, len(confidence_N), STARTS):
        place = int(np.searchsorted(answered, start))
        while place < len(ends) and p_values[place] <= DOUBT / STARTS:
            best = max(best, place)
            place += 1
    return None if best < 0 else float(sorted_N[ends[best]])


def alarm_from(score_N: Array, rare_N: Bools, *, false_alarms: float) -> float | None:
    """The lowest score from which an alarm keeps the false-alarm rate, with the promise.

    rare_N: rows that deserve an alarm. None where there are too few of the others to promise it.
    """
    others = np.sort(score_N[~rare_N])[::-1]
    allowed = int(distributions.binom.ppf(DOUBT, len(others), false_alarms))
    while allowed >= 0 and distributions.binom.cdf(allowed, len(others), false_alarms) > DOUBT:
        allowed -= 1
    if allowed < 0:
        return None
    # One more than allowed must stay below, whatever its ties.
    return float(np.nextafter(others[allowed], np.inf)) if allowed < len(others) else 0.0


def cheapest_alarm(score_N: Array, rare_N: Bools, costs: Costs) -> float:
    """The score from which alarms cost least on these rows; between two scores, their middle.

    Above every score where no alarm at all is cheapest.
    """
    edges = np.unique(score_N)
    middles = np.r_[edges[0], (edges[1:] + edges[:-1]) / 2, np.nextafter(edges[-1], np.inf)]
    spent = [mean_cost(score_N >= edge, rare_N, costs) for edge in middles]
    # Of equals the middle one: the ends are the least sure.
    ties = np.flatnonzero(np.isclose(spent, np.min(spent), rtol=1e-9, atol=0))
    return float(middles[ties[len(ties) // 2]])


def mean_cost(alarm_N: Bools, rare_N: Bools, costs: Costs) -> float:
    """Cost per request of these alarms; nan without rows of both kinds."""
    if not rare_N.any() or rare_N.all():
        return math.nan
    rate = float(rare_N.mean()) if costs.rate is None else costs.rate
    missed, false = float((~alarm_N[rare_N]).mean()), float(alarm_N[~rare_N].mean())
    return rate * costs.miss * missed + (1 - rate) * costs.false_alarm * false


def cost_interval(
    alarm_N: Bools, rare_N: Bools, costs: Costs, *, seed: int, draws: int = 2000
) -> tuple[float, float]:
    """95 % interval of mean_cost: misses and false alarms are drawn anew, each among its kind.

    One error more than was seen is thinkable, so both shares are drawn from Jeffreys' posterior.
    """
    rng = np.random.default_rng(seed)
    rate = float(rare_N.mean()) if costs.rate is None else costs.rate

    def share(errors: int, rows: int) -> Array:
        return rng.beta(errors + 0.5, rows - errors + 0.5, draws)

    missed = share(int((~alarm_N[rare_N]).sum()), int(rare_N.sum()))
    false = share(int(alarm_N[~rare_N].sum()), int((~rare_N).sum()))
    spent = rate * costs.miss * missed + (1 - rate) * costs.false_alarm * false
    low, high = np.quantile(spent, [0.025, 0.975])
    return float(low), float(high)
