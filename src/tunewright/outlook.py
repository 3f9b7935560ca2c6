"""What `benefit` can say before training: by the same arithmetic, from forecasts.

`plan` has measured nothing: it tells what building costs and how many errors that must save, and
decides where the recipe gives the error rates itself. `pilot` has a forecast of the score and
scores of rivals: it decides on those, with their doubt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.config import Recipe
from tunewright.decide.benefit import (
    NUM_DRAWS,
    Decision,
    Option,
    Range,
    Stakes,
    annuity,
    decide,
    request_usd,
    say_usd,
)
from tunewright.errors import RecipeError
from tunewright.metrics.table import find_metric
from tunewright.price_desk import PriceDesk
from tunewright.prices import Prices
from tunewright.sections import BusinessOption
from tunewright.worth import (
    TUNED,
    build_costs,
    build_doubts,
    find_old,
    make_stakes,
    monthly_costs,
    price_option,
)

TODAY = "today's way"
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measured:
    """A rival's share of wrong answers, and the standard deviation of that figure."""

    error: float
    deviation: float = 0.0


@dataclass(frozen=True, slots=True)
class Outlook:
    """The short form before training. needed_gain: the share of errors that must be saved for the
    money to come back, at the middle of all figures; decision: None where nothing says how many
    will be.
    """

    costs: tuple[tuple[str, float], ...]
    month_usd: float
    against: str
    needed_gain: float
    decision: Decision | None
    because: tuple[str, ...]
    sources: tuple[str, ...]
    warnings: tuple[str, ...]


def make_outlook(
    recipe: Recipe,
    *,
    num_rows: int,
    train_usd: float | None,
    train_hours: float,
    prices: Prices,
    today: date,
    train_kwh: float | None = None,
    tuned_error: Range | None = None,
    rivals: Mapping[str, Measured] | None = None,
) -> Outlook:
    """Is it worth beginning? train_usd: forecast; None for the hours at the machine's price.

    tuned_error: share of wrong answers of the tuned model, forecast; None for the recipe's own
    figure, if it gives one. Raises RecipeError naming the first figure that is missing.
    """
    business, rivals = recipe.business, rivals or {}
    stakes = make_stakes(business)
    desk = PriceDesk(prices, today, None)
    if business.train_usd is None and train_usd is not None:
        business = business.model_copy(update={"train_usd": train_usd})
    costs = build_costs(business, num_rows, train_hours, desk, train_kwh)
    options = _options(business.options, rivals, desk)
    given = business.options.get(TUNED, BusinessOption())
    tuned = price_option(TUNED, given, 0.0, desk)
    monthly = monthly_costs(business, costs)
    tuned = replace(
        tuned,
        build_usd=tuned.build_usd + sum(usd for _, usd in costs),
        month_usd=tuned.month_usd + sum(usd for _, usd in monthly),
        doubts=(*tuned.doubts, *build_doubts(business, train_hours, desk, train_kwh)),
    )
    old = find_old(business, options, stakes) if options else Option(TODAY)
    needed = needed_gain(tuned, old, stakes)
    if tuned_error is None and given.error_rate is not None:
        tuned_error = Range(given.error_rate, given.error_rate, given.error_rate)
    decision = None
    if tuned_error is not None and old.name != TODAY:
        draws = _gain_draws(tuned_error, old, rivals.get(old.name), recipe.training.seed)
        decision = decide(tuned, old, stakes, draws, seed=recipe.training.seed)
    return Outlook(
        costs=tuple((name, usd) for name, usd in costs if usd),
        month_usd=tuned.month_usd - old.month_usd,
        against=old.name,
        needed_gain=needed,
        decision=decision,
        because=tuple(_sentences(tuned, old, stakes, needed, decision)),
        sources=tuple(desk.sources),
        warnings=tuple(desk.warnings),
    )


def needed_gain(new: Option, old: Option, stakes: Stakes) -> float:
    """The share of errors that `new` must save for a net present value of zero; infinite where
    errors cost nothing.
    """
    worth = annuity(stakes.months, stakes.discount)
    asks = stakes.requests.value
    month = (new.build_usd - old.build_usd) / worth + new.month_usd - old.month_usd
    month += asks * (request_usd(new) - request_usd(old))
    month -= asks * (old.latency_s - new.latency_s) * stakes.second_usd
    each = asks * stakes.relevance * stakes.error_usd.value
    return month / each if each > 0 else math.inf


def forecast_error(metric: str, value: float, band90: tuple[float, float]) -> Range | None:
    """The share of wrong answers behind a forecast score; None for a metric that is no such share.

    band90: low and high end of the score.
    """
    if not find_metric(metric).yes_no:
        return None
    low, high = (min(1.0, max(0.0, 1.0 - end)) for end in (band90[1], band90[0]))
    middle = min(high, max(low, 1.0 - value))
    return Range(middle, low, high)


def shortest_outlook(recipe: Recipe, **figures: Any) -> dict[str, Any] | None:
    """The outlook as plain values; None without a `business:` section, a reason where a figure is
    missing. figures: as make_outlook takes them.
    """
    business = recipe.business
    if business.requests_per_month is None or business.cost_per_error_usd is None:
        return None
    try:
        made = make_outlook(recipe, **figures)
    except RecipeError as missing:
        return {"missing": str(missing), "because": [f"Worth: not reckoned; {missing}"]}
    decision = made.decision
    return {
        "verdict": None if decision is None else decision.word,
        "against": made.against,
        "costs": [{"what": name, "usd": usd} for name, usd in made.costs],
        "month_usd": made.month_usd,
        "needed_gain": made.needed_gain if math.isfinite(made.needed_gain) else None,
        "probability_of_gain": None if decision is None else decision.probability,
        "npv_usd": None
        if decision is None
        else {"value": decision.npv_usd, "ci95": list(decision.npv95)},
        "because": list(made.because),
        "sources": list(made.sources),
        "warnings": list(made.warnings),
    }


def _options(
    given: Mapping[str, BusinessOption], rivals: Mapping[str, Measured], desk: PriceDesk
) -> dict[str, Option]:
    """Every other way to answer whose errors are known."""
    named = {name: option for name, option in given.items() if name != TUNED}
    for name in rivals:
        named.setdefault(name, BusinessOption())
    found = {}
    for name, option in named.items():
        error = option.error_rate
        if error is None and name in rivals:
            error = rivals[name].error
        if error is not None:
            found[name] = price_option(name, option, error, desk)
    return found


def _gain_draws(tuned: Range, old: Option, measured: Measured | None, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    mine = np.clip(tuned.draw(rng, NUM_DRAWS), 0.0, 1.0)
    theirs = np.full(NUM_DRAWS, old.error)
    if measured is not None and measured.error == old.error:
        theirs = np.clip(rng.normal(old.error, measured.deviation, NUM_DRAWS), 0.0, 1.0)
    return np.asarray(theirs - mine, dtype=np.float64)


def _sentences(
    tuned: Option, old: Option, stakes: Stakes, needed: float, decision: Decision | None
) -> list[str]:
    name = old.name.replace("_", " ")
    build = say_usd(tuned.build_usd - old.build_usd)
    month = say_usd(tuned.month_usd - old.month_usd)
    said = []
    if decision is not None:
        said = [f"Worth, by forecast: {decision.word}.", *decision.because]
    said.append(f"To build it: {build}, then {month} a month more than {name}.")
    volume = f"{stakes.requests.value:,.0f} requests a month"
    if needed <= 0:
        said.append(f"It pays at {volume} even if it errs as often as {name}.")
    elif not math.isfinite(needed):
        said.append("An error costs nothing here, so fewer errors earn nothing.")
    elif needed > 1:
        said.append(f"At {volume} no number of saved errors pays for it.")
    else:
        said.append(
            f"It pays within {stakes.months} months from {100 * needed:.2g} errors saved in every "
            f"100 answers ({volume})."
        )
    return said
