"""What a run has measured of its own cost, joined with what its recipe says of the business.

Hosted systems were asked the test questions, so their tokens are known; tuning elsewhere has a
bill; training here has drawn energy; a watched model has raised alarms. The recipe's own word goes
first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np

from tunewright.config import Recipe, read_recipe
from tunewright.errors import RecipeError
from tunewright.evaluate.saved import read_predictions
from tunewright.hosted_cost import table_name
from tunewright.price_desk import Ask, prices_of
from tunewright.prices import Prices
from tunewright.records import Cost, Prediction
from tunewright.sections import BusinessOption
from tunewright.store import RunFolder, read_json, read_jsonl
from tunewright.worth import Worth, find_worth, is_filled, worth_document

TOKENS = ("input_tokens", "cached_tokens", "output_tokens")
LEAST_WATCHED_DAYS = 30.0
"""Alarms of a shorter time say nothing about a year."""
DAY_S = 86_400.0


def weigh_run(
    folder: RunFolder,
    overrides: Sequence[str] = (),
    *,
    prices: Prices | None,
    today: date,
    ask: Ask | None = None,
) -> tuple[Worth, Recipe]:
    """The worth of a finished run's model, and the recipe it was reckoned by.

    prices: None for those that the recipe names. Raises MissingFigureError, RunError, RecipeError.
    """
    recipe = read_recipe(folder.recipe, overrides)
    cost = read_json(folder.report_json).get("cost") or {}
    card = read_json(folder.card)
    found = read_predictions(folder.predictions)
    worth = weigh(
        recipe,
        folder,
        {system: rows for (system, split), rows in found.items() if split == "test"},
        card.get("labels") or (),
        num_rows=sum((side or {}).get("rows") or 0 for side in card["splits"].values()),
        train_hours=(_known(cost, "seconds") or 0.0) / 3600,
        train_kwh=_known(cost, "energy_kwh"),
        bill_usd=_known(cost, "usd"),
        prices=prices or prices_of(recipe, today, folder),
        today=today,
        ask=ask,
    )
    return worth, recipe


def weigh(
    recipe: Recipe,
    folder: RunFolder,
    answers: Mapping[str, Sequence[Prediction]],
    labels: Sequence[str],
    *,
    num_rows: int,
    train_hours: float,
    train_kwh: float | None,
    bill_usd: float | None,
    prices: Prices,
    today: date,
    ask: Ask | None = None,
) -> Worth:
    """Is a run's model worth its money? bill_usd: what a provider asks for tuning and judging.

    Raises MissingFigureError naming the first figure that is not known.
    """
    business = recipe.business
    changes: dict[str, Any] = {
        "options": _options(business.options, measured_options(folder, prices))
    }
    if recipe.provider != "here" and business.train_usd is None:
        changes["train_usd"] = bill_usd
    if business.retunes_per_year == "auto":
        changes["retunes_per_year"] = alarms_per_year(folder)
    known = recipe.model_copy(update={"business": business.model_copy(update=changes)})
    return find_worth(
        known, answers, labels, num_rows=num_rows, train_hours=train_hours, train_kwh=train_kwh,
        prices=prices, today=today, ask=ask,
    )  # fmt: skip


def short_form(
    recipe: Recipe,
    folder: RunFolder,
    answers: Mapping[str, Sequence[Prediction]],
    labels: Sequence[str],
    *,
    num_rows: int,
    seconds: float,
    cost: Cost,
    today: date,
) -> dict[str, Any]:
    """{"benefit": the short form for a report}; {} while the recipe says nothing of its business, a
    reason where a figure is missing: nobody is there to be asked, and the run itself is fine.
    """
    if not is_filled(recipe.business) or not answers.get("tuned"):
        return {}
    usd, energy = cost.usd, cost.energy_kwh
    try:
        worth = weigh(
            recipe,
            folder,
            {system: rows for system, rows in answers.items() if rows},
            labels,
            num_rows=num_rows,
            train_hours=seconds / 3600,
            train_kwh=energy.forecast if energy.measured is None else energy.measured,
            bill_usd=usd.forecast if usd.measured is None else usd.measured,
            prices=prices_of(recipe, today, folder),
            today=today,
        )
    except RecipeError as missing:
        return {"benefit": {"missing": str(missing)}}
    return {"benefit": worth_document(worth)}


def measured_options(folder: RunFolder, prices: Prices) -> dict[str, BusinessOption]:
    """Tokens of a request, by hosted system that was asked the test questions and sends a bill."""
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for line in read_jsonl(folder.answers):
        if line.get("priced_as"):
            lines.setdefault(str(line["system"]), []).append(line)
    found = {}
    for system, rows in lines.items():
        tokens = {name: float(np.mean([row.get(name) or 0 for row in rows])) for name in TOKENS}
        model = table_name("input_tokens", str(rows[0]["priced_as"]), prices)
        found[system] = BusinessOption(model=model, **tokens)
    return found


def _options(
    given: Mapping[str, BusinessOption], measured: Mapping[str, BusinessOption]
) -> dict[str, BusinessOption]:
    """What the recipe says of each system, filled up with what was measured."""
    merged = dict(given)
    for system, found in measured.items():
        mine = given.get(system, BusinessOption())
        if mine.model_fields_set & {"model", *TOKENS}:
            continue  # the recipe speaks of these tokens itself
        update = {name: getattr(found, name) for name in ("model", *TOKENS)}
        merged[system] = mine.model_copy(update=update)
    return merged


def alarms_per_year(folder: RunFolder) -> float:
    """How often watching has asked for tuning again, a year; 0 before anything was watched."""
    seen = folder.watch / "seen.json"
    if not seen.exists():
        return 0.0
    span = read_json(seen)
    days = max(LEAST_WATCHED_DAYS, (span["last_time_s"] - span["first_time_s"]) / DAY_S)
    # A log that was watched twice tells the same alarm twice.
    alarms = {json.dumps(line.get("time_s")) for line in read_jsonl(folder.watch / "alerts.jsonl")}
    return float(len(alarms) * 365.25 / days)


def _known(cost: Mapping[str, Any], name: str) -> float | None:
    """A figure of the report's cost: as measured, else as forecast."""
    amount = cost.get(name) or {}
    value = amount.get("measured")
    value = amount.get("forecast") if value is None else value
    return None if value is None else float(value)
