"""A hosted run judged: the test questions put to it and to its rivals, the same report as ever."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from tunewright.errors import RecipeError
from tunewright.evaluate.compare import compare
from tunewright.evaluate.details import make_details
from tunewright.evaluate.saved import read_predictions, save_predictions
from tunewright.evaluate.score import score
from tunewright.evaluate.verdict import judge
from tunewright.hosted_asking import Spent, answer_limit, ask_systems
from tunewright.hosted_cost import question_usd, train_price
from tunewright.hosted_rivals import describe_beside, local_rivals, runs_beside
from tunewright.hosted_run import HostedRun, choose_metrics
from tunewright.metrics.table import find_metric, lacks
from tunewright.pipeline import note_state
from tunewright.price_desk import PriceDesk, prices_of
from tunewright.providers.provider import Job
from tunewright.records import Amount, Cost, Prediction, Report, Result
from tunewright.store import read_json, read_jsonl
from tunewright.weighing import short_form


def answer_test(run: HostedRun, job: Job) -> tuple[dict[str, list[Prediction]], dict[str, Spent]]:
    """Test predictions of the tuned model and everything it is measured against."""
    systems = run.systems(job.model)
    asked, spent = ask_systems(
        systems,
        run.test,
        run.how,
        kept=run.folder.answers,
        max_tokens=answer_limit(run.recipe, run.train),
        num_parallel=run.recipe.hosted.num_parallel,
        journal=run.journal,
    )
    if not run.folder.predictions.exists():
        everyone = {
            **asked,
            **local_rivals(run.recipe, run.prepared, run.train, run.test, run.journal),
            **runs_beside(run.recipe, run.test),
        }
        note_state(run.folder, failed_rivals=[name for name, rows in everyone.items() if not rows])
        save_predictions(run.folder.predictions, [p for rows in everyone.values() for p in rows])
    found = read_predictions(run.folder.predictions)
    return {system: rows for (system, _), rows in found.items()}, spent


def make_report(
    run: HostedRun,
    job: Job,
    predictions: Mapping[str, Sequence[Prediction]],
    spent: Mapping[str, Spent],
) -> Report:
    """The report of a run whose test questions are answered."""
    recipe, prepared = run.recipe, run.prepared
    labels, seed = prepared.layout.labels, recipe.training.seed
    metrics = choose_metrics(recipe, prepared)
    results: list[Result] = [
        score(rows, metrics, labels=labels, seed=seed) for rows in predictions.values()
    ]
    chosen = find_metric(metrics[0])
    comparisons = [
        compare(predictions["tuned"], rows, metrics[0], labels=labels, seed=seed)
        for system, rows in predictions.items()
        if system != "tuned" and rows and not lacks(chosen, rows)
    ]
    cost = _cost(run, job, spent)
    details: dict[str, Any] = {
        **make_details(
            predictions,
            train=run.train,
            layout_labels=labels,
            task=prepared.layout.task,
            places={example.id: example.place for example in run.test},
            temperature=None,
        ),
        "recipe": run.folder.recipe.read_text(encoding="utf-8"),
        "steps": read_jsonl(run.folder.steps),
        "evaluations": read_jsonl(run.folder.evaluations),
        "card": read_json(run.folder.card),
        "environment": {
            "tunewright": version("tunewright"), "provider": run.provider.name, "job": job.id,
            "tuned model": job.model, **describe_beside(recipe),
        },
        "primary_metric": metrics[0],
        "warnings": run.journal.warnings,
        **_worth(run, predictions, cost),
    }  # fmt: skip
    verdict, because, next_steps = judge(
        results,
        comparisons,
        primary_metric=metrics[0],
        num_train=len(run.train),
        cost=cost,
        details=details,
        failed=read_json(run.folder.state).get("failed_rivals", ()),
    )
    return Report(
        task=str(recipe.task),
        base_model=recipe.base_model,
        primary_metric=metrics[0],
        results=tuple(results),
        comparisons=tuple(comparisons),
        cost=cost,
        verdict=verdict,
        because=because,
        next_steps=next_steps,
        details=details,
    )


def _cost(run: HostedRun, job: Job, spent: Mapping[str, Spent]) -> Cost:
    """Forecast beside what was billed: trained tokens as the provider counts them."""
    noted = run.noted()
    forecast, trained = noted["forecast"], job.trained_tokens
    tokens = None if trained is None else float(trained)
    usd = _billed(run, trained, spent)
    return Cost(
        seconds=Amount(None, time.time() - float(noted["created"])),
        tokens=Amount(float(forecast["train_tokens"]), tokens),
        usd=Amount(float(forecast["usd"]), usd),
    )


def _billed(run: HostedRun, trained: int | None, spent: Mapping[str, Spent]) -> float | None:
    """USD by the tokens that were billed; None where a price or a count is not known."""
    today = datetime.now(UTC).date()
    desk = PriceDesk(prices_of(run.recipe, today, run.folder), today, None)
    if trained is None:
        return None
    try:
        usd = 0.0 if run.provider.free else trained / 1e6 * train_price(run.recipe.base_model, desk)
        for system in run.systems(None):
            if not system.provider.free:
                told = spent.get(system.system, Spent())
                usd += question_usd(system, told.input_tokens, told.output_tokens, desk)
    except RecipeError:
        return None  # a person gave the price at the terminal; the forecast has it
    return usd


def _worth(
    run: HostedRun, predictions: Mapping[str, Sequence[Prediction]], cost: Cost
) -> dict[str, Any]:
    """The short form of `benefit`, once the recipe says what answers are worth."""
    splits = run.prepared.splits
    return short_form(
        run.recipe, run.folder, predictions, run.prepared.layout.labels,
        num_rows=len(splits.train) + len(splits.validation) + len(splits.test),
        seconds=0.0, cost=cost, today=datetime.now(UTC).date(),
    )  # fmt: skip
