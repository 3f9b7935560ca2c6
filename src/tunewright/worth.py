"""`benefit`: what a run measured, what a recipe says of its business, what prices there are.

Puts together the figures of decide/benefit.py; decides nothing itself. A figure that is missing is
named by its key, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.config import Recipe
from tunewright.decide.benefit import (
    NUM_DRAWS,
    Decision,
    Doubt,
    Option,
    Range,
    Stakes,
    decide,
    electricity_usd,
    error_draws,
    exactly,
    find_value,
    labelling_usd,
    request_usd,
    retuning_usd,
)
from tunewright.errors import RecipeError
from tunewright.figures import system_title
from tunewright.metrics.table import METRICS, find_metric
from tunewright.price_desk import Ask, MissingFigureError, PriceDesk
from tunewright.prices import Prices, cached_from
from tunewright.records import Prediction
from tunewright.sections import BusinessOption, BusinessSection

TUNED = "tuned"
REPEATED = ("training", "electricity", "search", "evaluation")
"""Costs that come again with every tuning."""
QUANTILES = (np.arange(200) + 0.5) / 200
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rival:
    """One row of the table of rivals: a system, its errors and what it comes to."""

    name: str
    error: float
    measured: bool
    request_usd: float
    month_usd: float
    """Answers, errors and hosting of a month together."""
    errors_usd: float
    """Of that, what errors cost."""
    build_usd: float


@dataclass(frozen=True, slots=True)
class Worth:
    """The whole answer. costs: what building the tuned model takes, item by item."""

    decision: Decision
    costs: tuple[tuple[str, float], ...]
    monthly: tuple[tuple[str, float], ...]
    rivals: tuple[Rival, ...]
    stakes: Stakes
    tuned: Option
    old: Option
    error_gain: tuple[float, float, float]
    """Middle and 95 % interval of old error minus new."""
    gain_quantiles: tuple[float, ...]
    """Of the same, evenly spaced: what the page's sliders draw from."""
    num_rows: int
    sources: tuple[str, ...]
    warnings: tuple[str, ...]
    train_kwh: float | None = None
    train_co2_kg: float | None = None
    """Of the training, where its energy counts and a carbon price list knows the grid."""


def find_worth(
    recipe: Recipe,
    answers: Mapping[str, Sequence[Prediction]],
    labels: Sequence[str],
    *,
    num_rows: int,
    train_hours: float,
    prices: Prices,
    today: date,
    train_kwh: float | None = None,
    ask: Ask | None = None,
    num_draws: int = NUM_DRAWS,
) -> Worth:
    """Is the tuned model of this run worth its money? answers: test predictions by system.

    Raises MissingFigureError naming the key of the first figure that is not known.
    """
    business = recipe.business
    stakes = make_stakes(business)
    right = rows_right(answers, labels, str(recipe.task))
    desk = PriceDesk(prices, today, ask)
    costs = build_costs(business, num_rows, train_hours, desk, train_kwh)
    monthly = monthly_costs(business, costs)
    options = _options(business, right, desk)
    kwh = _kwh(business, train_kwh)
    tuned = options.pop(TUNED)
    monthly.insert(0, ("hosting", tuned.month_usd))
    tuned = replace(
        tuned,
        build_usd=tuned.build_usd + sum(usd for _, usd in costs),
        month_usd=sum(usd for _, usd in monthly),
        doubts=(*tuned.doubts, *build_doubts(business, train_hours, desk, train_kwh)),
    )
    old = find_old(business, options, stakes)
    groups = [row.group for row in answers[TUNED]]
    draws = _draws(right, old, groups, num_draws, recipe.training.seed)
    low, high = (float(q) for q in np.quantile(draws, (0.025, 0.975)))
    return Worth(
        decision=decide(tuned, old, stakes, draws, seed=recipe.training.seed),
        costs=tuple((name, usd) for name, usd in costs if usd),
        monthly=tuple((name, usd) for name, usd in monthly if usd),
        rivals=tuple(
            _rival(option, stakes, option.name in right) for option in (tuned, *options.values())
        ),
        stakes=stakes,
        tuned=tuned,
        old=old,
        error_gain=(float(draws.mean()), low, high),
        gain_quantiles=tuple(float(q) for q in np.quantile(draws, QUANTILES)),
        num_rows=len(next(iter(right.values()))),
        sources=tuple(desk.sources),
        warnings=tuple(desk.warnings),
        train_kwh=kwh,
        train_co2_kg=desk.carbon_kg(kwh),
    )


def is_filled(business: BusinessSection) -> bool:
    """True when the recipe says how often the model is asked and what an error costs."""
    return business.requests_per_month is not None and business.cost_per_error_usd is not None


def make_stakes(business: BusinessSection) -> Stakes:
    """What the business section says of volume, errors and time. Raises MissingFigureError."""
    for key in ("requests_per_month", "cost_per_error_usd"):
        if getattr(business, key) is None:
            raise MissingFigureError(
                f"business.{key} is not set; give a number, or [low, likely, high]"
            )
    return Stakes(
        requests=_range(business.requests_per_month, "business.requests_per_month"),
        error_usd=_range(business.cost_per_error_usd, "business.cost_per_error_usd"),
        relevance=business.error_relevance,
        months=business.months,
        discount=business.discount_per_year,
        second_usd=business.latency_usd_per_s,
        price_spread=business.price_spread,
    )


def _range(value: Any, key: str) -> Range:
    if not isinstance(value, tuple):
        return exactly(float(value))
    low, likely, high = (float(v) for v in value)
    if not low <= likely <= high:
        raise RecipeError(f"{key} is {list(value)}; give [low, likely, high] in rising order")
    return Range(likely, low, high)


def rows_right(
    answers: Mapping[str, Sequence[Prediction]], labels: Sequence[str], task: str
) -> dict[str, Array]:
    """Per system 1 or 0 for every test row, all in the same order. Raises RecipeError."""
    name = next((n for n, m in METRICS.items() if m.yes_no and task in m.tasks), None)
    if name is None:
        raise RecipeError(
            f"benefit: answers of task {task} are not right or wrong, so errors cannot be counted; "
            "it speaks of classify, tag and generate"
        )
    metric = find_metric(name)
    assert metric.rows is not None
    first = [p.id for p in answers.get(TUNED, ())]
    if not first:
        raise RecipeError("benefit: the run has no test predictions; set data.test and run again")
    found = {}
    for system, rows in answers.items():
        by_id = {p.id: p for p in rows}
        if by_id.keys() != set(first):
            continue
        ordered = [by_id[i] for i in first]
        values: Any = metric.rows(ordered, labels)
        found[system] = np.asarray(values[:, 0], dtype=np.float64)
    return found


def build_costs(
    business: BusinessSection,
    num_rows: int,
    train_hours: float,
    desk: PriceDesk,
    train_kwh: float | None = None,
) -> list[tuple[str, float]]:
    """What building the tuned model takes, item by item. Raises MissingFigureError."""
    rows = num_rows if business.labelled_rows is None else business.labelled_rows
    train = business.train_usd
    if train is None:
        train = train_hours * desk.price("device_hour", "this")
    kwh = _kwh(business, train_kwh)
    return [
        ("labelling", labelling_usd(rows, business.minutes_per_label, business.usd_per_hour)),
        ("training", train),
        ("electricity", electricity_usd(kwh, desk.price("kwh", "here")) if kwh else 0.0),
        ("search", business.search_usd),
        ("evaluation", business.evaluation_usd),
        ("people", business.people_hours * business.usd_per_hour),
    ]


def monthly_costs(
    business: BusinessSection, costs: Sequence[tuple[str, float]]
) -> list[tuple[str, float]]:
    """What the tuned model takes every month beside hosting; costs: as build_costs gives them."""
    again = sum(usd for name, usd in costs if name in REPEATED)
    times = business.retunes_per_year
    return [
        ("monitoring", business.monitoring_usd_per_month),
        # auto before anything was watched: nothing has asked for it yet
        ("tuning again", retuning_usd(0.0 if isinstance(times, str) else times, again)),
    ]


def build_doubts(
    business: BusinessSection, train_hours: float, desk: PriceDesk, train_kwh: float | None = None
) -> list[Doubt]:
    """What is not sure about the prices that building takes."""
    found = []
    if business.train_usd is None:
        found += desk.doubt("device_hour", "this", once=train_hours)
    kwh = _kwh(business, train_kwh)
    return found + (desk.doubt("kwh", "here", once=kwh) if kwh else [])


def _kwh(business: BusinessSection, measured: float | None) -> float | None:
    """Energy that counts; None where the recipe does not want it. Raises MissingFigureError."""
    if not business.electricity:
        return None
    kwh = measured if business.train_kwh is None else business.train_kwh
    if kwh is None:
        raise MissingFigureError(
            "business.electricity is on, and the energy of the training is not known here; give "
            "business.train_kwh"
        )
    return kwh


def _options(
    business: BusinessSection, right: Mapping[str, Array], desk: PriceDesk
) -> dict[str, Option]:
    named = dict(business.options)
    for system in right:
        named.setdefault(system, BusinessOption())
    found = {}
    for name, given in named.items():
        error = given.error_rate
        if error is None and name not in right:
            raise MissingFigureError(
                f"business.options.{name}.error_rate is not set, and the run has no system of this "
                f"name ({', '.join(right)})"
            )
        measured = 1.0 - float(right[name].mean()) if name in right else 0.0
        found[name] = price_option(name, given, measured if error is None else error, desk)
    return found


def price_option(name: str, given: BusinessOption, error: float, desk: PriceDesk) -> Option:
    """One way to answer, its tokens priced. Raises MissingFigureError."""
    if given.cached_tokens > given.input_tokens:
        raise RecipeError(
            f"business.options.{name}.cached_tokens is {given.cached_tokens:g}, more than its "
            f"input_tokens {given.input_tokens:g}"
        )
    cached = _cached(name, given, desk)
    counts = {
        "input_tokens": given.input_tokens - cached,
        "cached_input_tokens": cached,
        "output_tokens": given.output_tokens,
    }
    paid = [kind for kind, count in counts.items() if given.model and count]
    usd = {kind: desk.price(kind, str(given.model)) for kind in paid}
    doubts = [
        doubt
        for kind in paid
        for doubt in desk.doubt(kind, str(given.model), each=counts[kind] / 1e6)
    ]
    return Option(
        name=name,
        error=error,
        input_tokens=given.input_tokens,
        cached_tokens=cached,
        output_tokens=given.output_tokens,
        input_usd=usd.get("input_tokens", 0.0),
        cached_usd=usd.get("cached_input_tokens", 0.0),
        output_usd=usd.get("output_tokens", 0.0),
        request_usd=given.usd_per_request,
        build_usd=given.build_usd,
        month_usd=given.usd_per_month,
        latency_s=given.latency_s,
        doubts=tuple(doubts),
    )


def _cached(name: str, given: BusinessOption, desk: PriceDesk) -> float:
    """Tokens that come from the cache: none of a prompt that is too short for one."""
    least = cached_from(given.model) if given.model and given.cached_tokens else None
    if least is None or given.input_tokens >= least[0]:
        return given.cached_tokens
    desk.warnings.append(
        f"business.options.{name}: {given.model} caches prompts from {least[0]:,} tokens "
        f"({least[1]}), this one has {given.input_tokens:,.0f}; its cached_tokens are counted at "
        "the full price"
    )
    return 0.0


def find_old(business: BusinessSection, options: Mapping[str, Option], stakes: Stakes) -> Option:
    """What would be replaced: the named system, or whichever other one costs least in all."""
    if not options:
        raise MissingFigureError(
            "business.options: nothing to compare with; name the system in use today with its "
            "error_rate"
        )
    wish = business.instead_of
    if wish == "auto":
        nothing = Option("nothing")
        return max(
            options.values(),
            key=lambda o: find_value(o, nothing, stakes, nothing.error - o.error).npv_usd,
        )
    if wish not in options:
        raise RecipeError(
            f"business.instead_of is {wish!r}; this run has {', '.join(sorted(options))}"
        )
    return options[wish]


def _draws(
    right: Mapping[str, Array],
    old: Option,
    groups: Sequence[str | None],
    size: int,
    seed: int,
) -> Array:
    """Draws of old error minus new: paired where both were measured on the same rows."""
    mine = right[TUNED]
    if old.name in right and abs(1.0 - right[old.name].mean() - old.error) < 1e-9:
        return error_draws(mine - right[old.name], groups, size, seed)
    # An error rate from elsewhere is taken as it stands; ours keeps its own doubt.
    draws = error_draws(mine, groups, size, seed)
    return np.asarray(old.error - (1.0 - draws))


def _rival(option: Option, stakes: Stakes, measured: bool) -> Rival:
    each = request_usd(option)
    wrong = stakes.requests.value * option.error * stakes.relevance * stakes.error_usd.value
    month = stakes.requests.value * each + wrong + option.month_usd
    return Rival(option.name, option.error, measured, each, month, wrong, option.build_usd)


def worth_document(worth: Worth) -> dict[str, Any]:
    """The answer as plain values, for --json, the page and report.json."""
    decision = worth.decision
    return {
        "verdict": decision.word,
        "against": decision.against,
        "probability_of_gain": decision.probability,
        "npv_usd": {"value": decision.npv_usd, "ci95": list(decision.npv95)},
        "month_usd": decision.value.month_usd,
        "request_usd": decision.value.request_usd,
        "pay_back_months": decision.value.pay_back_months,
        "break_even_requests": {
            "value": decision.value.break_even_requests,
            "ci90": list(decision.break_even90),
        },
        "error_gain": {"value": worth.error_gain[0], "ci95": list(worth.error_gain[1:])},
        "worth_knowing": [{"what": name, "usd": usd} for name, usd in decision.information],
        "perfect_information_usd": decision.perfect_usd,
        "tornado": list(decision.tornado),
        "costs": [{"what": name, "usd": usd} for name, usd in worth.costs],
        "monthly": [{"what": name, "usd": usd} for name, usd in worth.monthly],
        "rivals": [
            {**{key: getattr(r, key) for key in r.__slots__}, "title": system_title(r.name)}
            for r in worth.rivals
        ],
        "stakes": worth.stakes,
        "options": {"new": worth.tuned, "old": worth.old},
        "gain_quantiles": list(worth.gain_quantiles),
        "num_rows": worth.num_rows,
        "train_kwh": worth.train_kwh,
        "train_co2_kg": worth.train_co2_kg,
        "because": list(decision.because),
        "sources": list(worth.sources),
        "warnings": list(worth.warnings),
    }
