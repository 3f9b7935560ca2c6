"""`pilot`: a few small trainings tell whether the whole one is worth its price.

The story: cheap baselines, one batch by heart, three learning rates, three nested pilots, a power
law with its band, an answer. What was measured is kept in the folder; a second call goes on there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunewright.config import Recipe, dump_recipe, with_values
from tunewright.cost.devices import forecast_kwh
from tunewright.data.prepare import Prepared, prepare
from tunewright.decide.curves import Goal, Point
from tunewright.decide.pilot import (
    OVERFITS_BELOW,
    RATE_CHECK_EPOCHS,
    RATE_FACTORS,
    WORTH,
    Baseline,
    Overfit,
    PilotAnswer,
    RateCheck,
    choose_rate,
    decide,
    pilot_cost,
    pilot_rows,
)
from tunewright.errors import DataError, Refusal
from tunewright.evaluate.baselines import Material, run_baselines
from tunewright.evaluate.score import score
from tunewright.journal import Journal, silence
from tunewright.model.device import device_name
from tunewright.outlook import Measured, forecast_error, shortest_outlook
from tunewright.price_desk import prices_of
from tunewright.records import Derived, Example
from tunewright.report.pilot import make_pilot_page
from tunewright.setup import Setup, first_by_content, make_setup
from tunewright.store import to_plain, write_atomic, write_json
from tunewright.train.loop import Evaluation
from tunewright.train.step import NonFiniteLossError
from tunewright.trial import (
    Trial,
    TrialBook,
    deciding_metric,
    free,
    goal_of,
    nested_order,
    overfit_batch,
    run_trial,
    with_rows,
)

OVERFIT_ROWS = 8
OVERFIT_STEPS = 40
RATE_CHECK_ROWS = 200
RIVALS = {
    "classify": ("majority", "tfidf_linear"),
    "tag": ("majority", "tfidf_linear"),
    "regress": ("mean", "tfidf_linear"),
    "generate": ("base", "nearest_neighbour"),
    "chat": ("base", "nearest_neighbour"),
    "continue": ("base",),
}
FLOORS = ("majority", "mean")
"""Baselines that answer without reading the input."""


@dataclass(frozen=True, slots=True)
class PilotReport:
    """All that `pilot` found. cost_share: seconds spent on training, of a whole run's forecast."""

    task: str
    base_model: str
    metric: str
    num_rows: int
    answer: PilotAnswer
    trials: tuple[Trial, ...]
    baselines: tuple[Baseline, ...]
    overfit: Overfit
    rate_check: RateCheck | None
    learning_rate: float
    seconds: float
    full_seconds: float
    cost_share: float
    warnings: tuple[str, ...]
    benefit: dict[str, Any] | None = None
    """The short form of `benefit` by forecast, where the recipe has a `business:` section."""


def pilot(
    recipe: Recipe,
    folder: Path,
    journal: Journal,
    *,
    thorough: bool = False,
    worth: float = WORTH,
) -> PilotReport:
    """Answer GO, MORE DATA or STOP for a recipe; leaves pilot.json, pilot.html and recipe.yaml.

    recipe.yaml holds the learning rate that was checked, for the whole run. Raises DataError where
    there are too few rows, Refusal where the recipe does not fit.
    """
    prepared = prepare(recipe.data, recipe.task, journal)
    if not prepared.splits.validation:
        raise DataError("data.validation is 0: a pilot is judged on validation rows; give a share")
    num_rows = len(prepared.splits.train)
    try:
        sizes = pilot_rows(num_rows, thorough=thorough)
    except ValueError as error:
        raise DataError(str(error)) from None
    order = nested_order(prepared.splits.train, recipe.data.split_seed)
    metric = deciding_metric(recipe, prepared)
    setup = make_setup(recipe, with_rows(prepared, order), journal)
    pinned = pin(recipe, setup)
    _say_cost(setup, sizes, thorough, journal)
    book = TrialBook(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rivals = ask_rivals(setup, metric, journal)
    free(setup.base)
    overfit = check_overfit(pinned, setup, order, journal)
    smallest = order[: max(1, num_rows // 32)]
    rates = check_rates(pinned, setup, with_rows(prepared, smallest), metric, journal)
    factor = 1.0 if rates is None else rates.chosen / rates.rates[1]
    trials = []
    for size in sizes:
        part = with_rows(prepared, order[:size])
        made = book.run(pinned, part, metric, journal, rate_factor=factor)
        journal.say(f"pilot on {size} rows: {metric} {made.value:.4g}")
        trials.append(made)
    goal = goal_of(metric)
    answer = decide(
        [made.point() for made in trials], rivals, goal, num_rows, worth=worth,
        seed=recipe.training.seed,
    )  # fmt: skip
    answer = _with_overfit(answer, overfit)
    report = _report(setup, metric, answer, trials, rivals, overfit, rates, factor, journal)
    _write(folder, recipe, setup, report, factor)
    return report


def pin(recipe: Recipe, setup: Setup) -> Recipe:
    """The recipe with what must be the same in every pilot taken from the whole run: the passes,
    the lengths, the threads. Rates and batches stay as each number of rows wants them.
    """
    training = setup.recipe.training
    return with_values(
        recipe,
        {
            "task": setup.task,
            "adapter.method": setup.recipe.adapter.method,
            "adapter.r": setup.recipe.adapter.r,
            "adapter.alpha": setup.recipe.adapter.alpha,
            "training.num_epochs": training.num_epochs,
            "training.max_length": training.max_length,
            "training.precision": training.precision,
            "training.num_threads": training.num_threads,
            "evaluation.max_new_tokens": setup.recipe.evaluation.max_new_tokens,
        },
    )


def _say_cost(setup: Setup, sizes: Sequence[int], thorough: bool, journal: Journal) -> None:
    share = pilot_cost(thorough=thorough, check_rate=_rate_is_free(setup))
    minutes = share * setup.forecast.seconds / 60
    shown = ", ".join(f"{size:,}" for size in sizes)
    journal.say(
        f"pilots on {shown} of {len(setup.prepared.splits.train):,} rows: about {share:.0%} of a "
        f"whole run, {minutes:.1f} minutes"
    )


def _rate_is_free(setup: Setup) -> bool:
    return any(item.key == "training.learning_rate" for item in setup.derived)


def ask_rivals(setup: Setup, metric: str, journal: Journal) -> tuple[Baseline, ...]:
    """Scores of the cheap baselines, learned from all training rows, on the judged rows."""
    splits, layout = setup.prepared.splits, setup.prepared.layout
    held = splits.validation
    if setup.task in ("generate", "chat"):
        held = first_by_content(held, RATE_CHECK_ROWS)
    needs_base = "base" in RIVALS[setup.task]
    material = Material(
        task=layout.task,
        labels=layout.labels,
        multi_label=layout.multi_label,
        train=splits.train,
        test=held,
        split="validation",
        seed=setup.recipe.training.seed,
        asker=setup.asker(setup.base) if needs_base else None,
        advance=lambda done: None,
    )
    found = []
    for name, rows in run_baselines(RIVALS[setup.task], material, journal).items():
        if rows:
            got = score(rows, (metric,), labels=layout.labels, seed=material.seed).metrics[metric]
            deviation = (got.ci95[1] - got.ci95[0]) / (2 * 1.96)
            found.append(Baseline(name, got.value, deviation, name in FLOORS))
    return tuple(found)


def check_overfit(
    recipe: Recipe, setup: Setup, order: Sequence[Example], journal: Journal
) -> Overfit:
    """Learn one batch by heart at the whole run's learning rate."""
    rate = setup.recipe.training.learning_rate
    fixed = with_values(recipe, {"training.learning_rate": rate})
    losses = overfit_batch(fixed, setup.prepared, order[:OVERFIT_ROWS], OVERFIT_STEPS)
    made = Overfit(losses[0], min(losses), len(losses))
    how = "learned by heart" if made.passed else "not learned by heart"
    journal.say(f"one batch {how}: loss {made.first_loss:.3g} to {made.least_loss:.3g}")
    if not made.passed:
        journal.warn(
            f"one batch of {OVERFIT_ROWS} rows kept {made.least_loss / made.first_loss:.0%} of its "
            "loss: check template, labels and learning rate"
        )
    return made


def check_rates(
    recipe: Recipe, setup: Setup, part: Prepared, metric: str, journal: Journal
) -> RateCheck | None:
    """The same short training at a third, once and three times the usual rate; None where the
    recipe gives the rate itself.
    """
    if not _rate_is_free(setup):
        return None
    held = first_by_content(part.splits.validation, RATE_CHECK_ROWS)
    part = replace(part, splits=replace(part.splits, validation=held))
    epochs = max(1.0, RATE_CHECK_EPOCHS * float(recipe.training.num_epochs))
    short = with_values(recipe, {"training.num_epochs": epochs, "training.eval_steps": 1 << 30})
    rates, losses = [], []
    for factor in RATE_FACTORS:
        seen: list[Evaluation] = []
        try:
            made = run_trial(
                short, part, metric, silence(), rate_factor=factor, on_evaluation=seen.append
            )
            rates.append(made.learning_rate)
            last = seen[-1]
            losses.append(last.loss if math.isfinite(last.loss) else 1.0 - last.value)
        except (Refusal, NonFiniteLossError):
            rates.append(rates[0] * factor / RATE_FACTORS[0] if rates else math.nan)
            losses.append(math.nan)
    check = choose_rate(rates, losses, rates[1])
    shown = ", ".join(f"{rate:.2g}: {loss:.4g}" for rate, loss in zip(rates, losses, strict=True))
    journal.say(f"learning rates {shown}; {check.reason}")
    return check


def _with_overfit(answer: PilotAnswer, overfit: Overfit) -> PilotAnswer:
    """STOP where not even one batch moved: whatever the curve says, it is not this task's."""
    if overfit.passed or overfit.least_loss < 0.8 * overfit.first_loss:
        return answer
    because = (
        f"one batch could not be learned by heart: its loss stays above {0.8:.0%} of the first, "
        f"where {OVERFITS_BELOW:.0%} is usual; nothing longer will do better",
        *answer.because,
    )
    return replace(answer, answer="STOP", because=because)


def _report(
    setup: Setup,
    metric: str,
    answer: PilotAnswer,
    trials: Sequence[Trial],
    rivals: Sequence[Baseline],
    overfit: Overfit,
    rates: RateCheck | None,
    factor: float,
    journal: Journal,
) -> PilotReport:
    rate, epochs = setup.recipe.training.learning_rate, setup.recipe.training.num_epochs
    assert isinstance(rate, float) and isinstance(epochs, float)
    spent = sum(made.seconds for made in trials)
    # The largest pilot's pace: a small one is mostly loading and judging.
    pace_s = trials[-1].seconds / trials[-1].row_passes
    full_seconds = pace_s * len(setup.prepared.splits.train) * epochs
    return PilotReport(
        task=setup.task,
        base_model=setup.recipe.base_model,
        metric=metric,
        num_rows=len(setup.prepared.splits.train),
        answer=answer,
        trials=tuple(trials),
        baselines=tuple(rivals),
        overfit=overfit,
        rate_check=rates,
        learning_rate=rate * factor,
        seconds=spent,
        full_seconds=full_seconds,
        cost_share=spent / full_seconds,
        warnings=tuple(journal.warnings),
        benefit=_outlook(setup, metric, answer, rivals, full_seconds),
    )


def _outlook(
    setup: Setup,
    metric: str,
    answer: PilotAnswer,
    rivals: Sequence[Baseline],
    full_seconds: float,
) -> dict[str, Any] | None:
    """Whether the whole run would pay, as far as the pilots can tell."""
    today, made = datetime.now(UTC).date(), answer.forecast
    error = forecast_error(metric, made.value, made.band90)
    known = {item.name: Measured(1.0 - item.value, item.deviation) for item in rivals}
    splits = setup.prepared.splits
    return shortest_outlook(
        setup.recipe,
        num_rows=len(splits.train) + len(splits.validation) + len(splits.test),
        train_usd=None,
        train_hours=full_seconds / 3600,
        train_kwh=forecast_kwh(
            setup.device.type,
            device_name(setup.device),
            setup.recipe.training.num_threads,
            full_seconds,
        ),
        prices=prices_of(setup.recipe, today),
        today=today,
        tuned_error=error,
        rivals=known if error is not None else {},
    )


def _write(folder: Path, recipe: Recipe, setup: Setup, report: PilotReport, factor: float) -> None:
    """pilot.json and its page; recipe.yaml for the whole run, with the rate that was checked."""
    now = time.strftime("%Y-%m-%dT%H:%M:%S")
    document = to_plain({**document_of(report), "time": now})
    write_json(folder / "pilot.json", document)
    write_atomic(folder / "pilot.html", make_pilot_page(document))
    whole, derived = recipe, []
    if factor != 1.0:
        whole = with_values(recipe, {"training.learning_rate": report.learning_rate})
        derived = [Derived("training.learning_rate", report.learning_rate, "checked by pilot")]
    write_atomic(folder / "recipe.yaml", dump_recipe(whole, derived))


def document_of(report: PilotReport) -> dict[str, Any]:
    """What --json prints and pilot.json holds."""
    goal = goal_of(report.metric)
    return {
        "answer": report.answer.answer,
        "because": report.answer.because,
        "task": report.task,
        "base_model": report.base_model,
        "metric": report.metric,
        "higher_is_better": goal.higher_is_better,
        "num_rows": report.num_rows,
        "forecast": report.answer.forecast,
        "more": report.answer.more,
        "chance_to_beat_strongest": report.answer.chance,
        "strongest": report.answer.strongest,
        "points": [_point(made, goal) for made in report.trials],
        "baselines": report.baselines,
        "overfit": {**_plain(report.overfit), "passed": report.overfit.passed},
        "rate_check": report.rate_check,
        "learning_rate": report.learning_rate,
        "cost": {
            "seconds": report.seconds,
            "full_seconds": report.full_seconds,
            "share": report.cost_share,
        },
        "warnings": report.warnings,
        "benefit": report.benefit,
    }


def _point(made: Trial, goal: Goal) -> dict[str, Any]:
    point: Point = made.point()
    return {
        "num_rows": point.num_rows,
        "value": point.value,
        "ci95": made.ci95,
        "loss": float(goal.loss(point.value)),
        "seconds": made.seconds,
    }


def _plain(overfit: Overfit) -> dict[str, Any]:
    return {
        "first_loss": overfit.first_loss,
        "least_loss": overfit.least_loss,
        "steps": overfit.steps,
    }
