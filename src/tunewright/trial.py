"""Short trainings on part of the rows: what `pilot`, `choose` and `search` learn from.

A trial is a real training by the real loop, judged once on validation; it keeps no model.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tunewright.config import Recipe, with_values
from tunewright.data.prepare import Prepared
from tunewright.data.render import render
from tunewright.data.split import make_units
from tunewright.decide.curves import Goal, Point
from tunewright.evaluate.score import score
from tunewright.journal import Journal, silence
from tunewright.metrics.table import find_metric, metrics_for
from tunewright.model.load import Base
from tunewright.records import Example, Score
from tunewright.setup import Setup, first_by_content, make_setup, open_model
from tunewright.train.head import start_head
from tunewright.train.loop import Evaluation, fit
from tunewright.train.objectives import OBJECTIVES
from tunewright.validation import MOST_GENERATED, make_evaluate

MOST_JUDGED = 2000
"""Validation rows that a trial is judged on: the standard error is then about a point at most."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What a short training came to. value: of the deciding metric, with its 95 % interval.

    seconds: training and judging; row_passes: training rows times epochs.
    """

    base_model: str
    num_rows: int
    metric: str
    value: float
    ci95: tuple[float, float]
    num_judged: int
    seconds: float
    steps: int
    row_passes: float
    tokens: int
    learning_rate: float
    num_epochs: float

    def point(self) -> Point:
        """As a point of a learning curve."""
        return Point(self.num_rows, self.value, (self.ci95[1] - self.ci95[0]) / (2 * 1.96))


def goal_of(metric: str) -> Goal:
    """Where a metric's best value lies."""
    found = find_metric(metric)
    low, high = found.range
    if found.higher_is_better:
        return Goal(metric, 1.0 if high is None else high, True)
    return Goal(metric, 0.0 if low is None else low, False)


def nested_order(examples: Sequence[Example], seed: int) -> list[Example]:
    """All examples in an order of which every beginning is a fair sample: labels in proportion,
    whole groups and equal texts together, the choice by content alone.
    """
    units = make_units(examples, seed)
    totals = Counter(unit.counts[0][0] for unit in units)
    seen: dict[str, int] = defaultdict(int)
    placed = []
    for unit in units:
        label = unit.counts[0][0]
        placed.append(((seen[label] + 0.5) / totals[label], unit.digest, unit.rows))
        seen[label] += 1
    return [examples[row] for _, _, rows in sorted(placed) for row in rows]


def with_rows(prepared: Prepared, rows: Sequence[Example]) -> Prepared:
    """The same data with these training rows, and no more validation rows than a trial needs."""
    held = first_by_content(prepared.splits.validation, MOST_JUDGED)
    splits = replace(prepared.splits, train=tuple(rows), validation=held)
    return replace(prepared, splits=splits)


def deciding_metric(recipe: Recipe, prepared: Prepared) -> str:
    """The recipe's first metric, or the task's."""
    if recipe.evaluation.metrics != "auto":
        return recipe.evaluation.metrics[0]
    layout, splits = prepared.layout, prepared.splits
    return metrics_for(layout.task, splits.train + splits.test, layout.labels)[0]


def run_trial(
    recipe: Recipe,
    prepared: Prepared,
    metric: str,
    journal: Journal,
    *,
    place: Path | None = None,
    careful: bool = False,
    on_evaluation: Callable[[Evaluation], None] | None = None,
) -> Trial:
    """Train by the recipe on prepared's training rows and judge on its validation rows.

    careful: as a whole run does, looking at validation each epoch and keeping the best weights;
    else one look at the end, for looks are what a small pilot would spend most on.
    place: where checkpoints go; a trial found there half done goes on. Raises what training raises.
    """
    started = time.monotonic()
    quiet = silence()
    if not careful:
        recipe = with_values(
            recipe,
            {"training.early_stopping_patience": None, "training.interpolate": "off"},
        )
    setup = make_setup(recipe, prepared, quiet)
    journal.warnings += [text for text in quiet.warnings if text not in journal.warnings]
    with tempfile.TemporaryDirectory(prefix="tunewright-") as temporary:
        where = place or Path(temporary)
        steps, base, tokens = _train(setup, metric, where, journal, careful, on_evaluation)
        result = _judge(setup, base, metric)
    free(base)
    training = setup.recipe.training
    assert isinstance(training.num_epochs, float) and isinstance(training.learning_rate, float)
    rows = len(prepared.splits.train)
    return Trial(
        base_model=recipe.base_model,
        num_rows=rows,
        metric=metric,
        value=result.value,
        ci95=result.ci95,
        num_judged=result.n,
        seconds=time.monotonic() - started,
        steps=steps,
        row_passes=rows * training.num_epochs,
        tokens=tokens,
        learning_rate=training.learning_rate,
        num_epochs=training.num_epochs,
    )


def _train(
    setup: Setup,
    metric: str,
    place: Path,
    journal: Journal,
    careful: bool,
    on_evaluation: Callable[[Evaluation], None] | None,
) -> tuple[int, Base, int]:
    """(steps taken, the tuned base, tokens seen)."""
    tuning = open_model(setup, silence())
    rows = setup.standardised(render(setup.prepared.splits.train, setup.rendering))
    training, plan = setup.recipe.training, tuning.plan
    fitted_head = training.head_init != "random" and start_head(tuning.base, rows, plan.pad_id)
    wish = training.interpolate
    mixing = wish == "on" or (wish == "auto" and fitted_head)
    evaluate = make_evaluate(setup, tuning.base, (metric,)) if careful or on_evaluation else None
    if not careful and on_evaluation is None:
        plan = replace(plan, eval_steps=1 << 30)
    fitted = fit(
        tuning.base.model,
        tuning.parameters,
        rows,
        replace(plan, fitted_start=mixing and careful),
        training,
        objective=OBJECTIVES[setup.objective],
        evaluate=evaluate,
        checkpoints=place,
        log_step=lambda step: None,
        log_evaluation=on_evaluation or (lambda evaluation: None),
        forget_after=lambda step: None,
        journal=journal,
        resume=any(place.glob("step-*")) if place.exists() else False,
    )
    return fitted.steps, tuning.base, fitted.tokens


def _judge(setup: Setup, base: Base, metric: str) -> Score:
    rows = setup.prepared.splits.validation
    if setup.task in ("generate", "chat"):
        rows = first_by_content(rows, MOST_GENERATED)
    predictions = setup.asker(base).predict(rows, system="tuned", split="validation")
    labels, seed = setup.prepared.layout.labels, setup.recipe.training.seed
    return score(predictions, (metric,), labels=labels, seed=seed).metrics[metric]


def free(base: Base) -> None:
    """Give the memory of a model back: the next trial may need all of it."""
    base.model.to("meta")
    gc.collect()
    if base.device.type == "cuda":
        torch.cuda.empty_cache()
