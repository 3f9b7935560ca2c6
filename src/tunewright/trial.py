"""Short trainings on part of the rows: what `pilot`, `choose` and `search` learn from.

A trial is a real training by the real loop, judged once on validation; it keeps no model.
"""

from __future__ import annotations

import gc
import hashlib
import shutil
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from tunewright.config import Recipe, with_values
from tunewright.data.preferences import render_training
from tunewright.data.prepare import Prepared
from tunewright.data.split import make_units
from tunewright.decide.curves import Goal, Point
from tunewright.errors import Refusal, RunError
from tunewright.evaluate.predict import continue_text
from tunewright.evaluate.score import score
from tunewright.journal import Journal, silence
from tunewright.learning import class_offsets, objective_of, with_references
from tunewright.metrics.table import find_metric, metrics_for
from tunewright.model.load import Base
from tunewright.records import Example, Score, StepLog
from tunewright.setup import Setup, first_by_content, make_setup, open_model
from tunewright.store import append_jsonl, read_jsonl
from tunewright.train.head import start_head
from tunewright.train.loop import Evaluation, Fitted, fit
from tunewright.train.optimize import MasterAdamW
from tunewright.train.step import MicroBatching, NonFiniteLossError, take_step
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
    smooth = found.needs == "nll" and metric != "perplexity"
    return Goal(metric, 0.0 if low is None else low, False, smooth)


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


def trial_key(recipe: Recipe, prepared: Prepared, metric: str, *extra: object) -> str:
    """16 hex digits that are equal exactly where a trial would be the same."""
    shown = recipe.model_dump(
        mode="json", include={"task", "objective", "base_model", "base_revision", "adapter"}
    )
    shown["training"] = recipe.training.model_dump(
        mode="json",
        exclude={"save_interval_s", "save_steps", "keep_epochs", "num_workers", "trackers"},
    )
    splits = prepared.splits
    digest = hashlib.sha256(repr((sorted(shown.items()), metric, extra)).encode())
    for rows in (splits.train, splits.validation):
        digest.update("\n".join(example.id for example in rows).encode())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class TrialBook:
    """Trials of a folder: what was measured is read, what was begun goes on, the rest is run."""

    folder: Path

    @property
    def path(self) -> Path:
        """One line per finished trial."""
        return self.folder / "trials.jsonl"

    def known(self) -> dict[str, Trial]:
        """Finished trials by key."""
        found = {}
        for line in read_jsonl(self.path):
            values = {**line["trial"], "ci95": tuple(line["trial"]["ci95"])}
            found[str(line["key"])] = Trial(**values)
        return found

    def run(
        self,
        recipe: Recipe,
        prepared: Prepared,
        metric: str,
        journal: Journal,
        *,
        careful: bool = False,
        rate_factor: float = 1.0,
    ) -> Trial:
        """As run_trial; killed in between, the same call goes on from the last checkpoint."""
        key = trial_key(recipe, prepared, metric, careful, rate_factor)
        done = self.known().get(key)
        if done is not None:
            return done
        place = self.folder / "unfinished" / key
        act = partial(
            run_trial, recipe, prepared, metric, journal, place=place, careful=careful,
            rate_factor=rate_factor,
        )  # fmt: skip
        try:
            made = act()
        except RunError:  # its half belongs to another version of something: begin anew
            shutil.rmtree(place, ignore_errors=True)
            made = act()
        append_jsonl(self.path, [{"key": key, "trial": made}])
        shutil.rmtree(place, ignore_errors=True)
        return made


def run_trial(
    recipe: Recipe,
    prepared: Prepared,
    metric: str,
    journal: Journal,
    *,
    place: Path | None = None,
    careful: bool = False,
    rate_factor: float = 1.0,
    on_evaluation: Callable[[Evaluation], None] | None = None,
) -> Trial:
    """Train by the recipe on prepared's training rows and judge on its validation rows.

    careful: as a whole run does, looking at validation each epoch and keeping the best weights;
    else one look at the end, for looks are what a small pilot would spend most on.
    place: where checkpoints go; a trial found there half done goes on. rate_factor multiplies the
    learning rate that the recipe gives for so many rows. Raises what training raises.
    """
    started = time.monotonic()
    setup = _settle(recipe, prepared, journal, careful, rate_factor)
    with tempfile.TemporaryDirectory(prefix="tunewright-") as temporary:
        watch = (lambda _: None) if on_evaluation is None else on_evaluation
        looks = careful or on_evaluation is not None
        fitted, base = _train(setup, metric, place or Path(temporary), journal, looks, watch)
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
        steps=fitted.steps,
        row_passes=rows * training.num_epochs,
        tokens=fitted.tokens,
        learning_rate=training.learning_rate,
        num_epochs=training.num_epochs,
    )


def _settle(
    recipe: Recipe, prepared: Prepared, journal: Journal, careful: bool, rate_factor: float
) -> Setup:
    """Every "auto" settled without a word; warnings reach the journal once."""
    quiet = silence()
    if not careful:
        changes = {"training.early_stopping_patience": None, "training.interpolate": "off"}
        recipe = with_values(recipe, changes)
    setup = make_setup(recipe, prepared, quiet)
    journal.warnings += [text for text in quiet.warnings if text not in journal.warnings]
    if rate_factor == 1.0:
        return setup
    rates = {
        f"training.{name}": rate_factor * float(getattr(setup.recipe.training, name))
        for name in ("learning_rate", "head_learning_rate")
    }
    return replace(setup, recipe=with_values(setup.recipe, rates))


def _train(
    setup: Setup,
    metric: str,
    place: Path,
    journal: Journal,
    looks: bool,
    log_evaluation: Callable[[Evaluation], None],
    log_step: Callable[[StepLog], None] = lambda step: None,
) -> tuple[Fitted, Base]:
    """Train, and leave the tuned weights in the base that comes back."""
    tuning = open_model(setup, silence())
    rows = setup.standardised(render_training(setup.prepared.splits.train, setup.rendering))
    rows = with_references(setup, tuning, rows, silence())
    training = setup.recipe.training
    fitted_head = training.head_init != "random" and start_head(
        tuning.base, rows, tuning.plan.pad_id, class_offsets(setup)
    )
    mixing = training.interpolate == "on" or (training.interpolate == "auto" and fitted_head)
    fitted = fit(
        tuning.base.model,
        tuning.parameters,
        rows,
        replace(tuning.plan, fitted_start=mixing and looks),
        training,
        objective=objective_of(setup, tuning.base),
        evaluate=make_evaluate(setup, tuning.base, (metric,)) if looks else None,
        checkpoints=place,
        log_step=log_step,
        log_evaluation=log_evaluation,
        forget_after=lambda step: None,
        journal=journal,
        resume=place.exists() and any(place.glob("step-*")),
    )
    return replace(fitted, weights={}), tuning.base


def _judge(setup: Setup, base: Base, metric: str) -> Score:
    rows = setup.prepared.splits.validation
    if setup.task in ("generate", "chat"):
        rows = first_by_content(rows, MOST_GENERATED)
    asker = setup.asker(base)
    if metric == "bits_per_byte":  # needs no answer, only the reference's likelihood
        predictions = continue_text(asker, rows, "tuned", "validation", lambda done: None)
    else:
        predictions = asker.predict(rows, system="tuned", split="validation")
    labels, seed = setup.prepared.layout.labels, setup.recipe.training.seed
    return score(predictions, (metric,), labels=labels, seed=seed).metrics[metric]


def overfit_batch(
    recipe: Recipe, prepared: Prepared, rows: Sequence[Example], steps: int
) -> tuple[float, ...]:
    """Losses of `steps` steps on one batch of these rows alone, from a head of noise, nothing in
    the way: no dropout, smoothing, warm-up or decay. A sound set-up learns it by heart.
    """
    changes = {
        "training.num_epochs": float(steps),
        "training.batch_size": len(rows),
        "training.gradient_accumulation_steps": "auto",
        "training.max_steps": None,
        "training.head_init": "random",
        "training.lr_scheduler": "constant",
        **dict.fromkeys(
            ("training.dropout", "training.token_dropout", "training.label_smoothing",
             "training.warmup_ratio", "training.weight_decay"), 0.0,
        ),
    }  # fmt: skip
    setup = _settle(with_values(recipe, changes), with_rows(prepared, rows), silence(), False, 1.0)
    losses: list[float] = []
    with tempfile.TemporaryDirectory(prefix="tunewright-") as place:
        _, base = _train(
            setup, "", Path(place), silence(), False, lambda _: None,
            lambda step: losses.append(step.loss),
        )  # fmt: skip
    free(base)
    return tuple(losses)


def ramp_losses(
    recipe: Recipe, prepared: Prepared, factors: Sequence[float]
) -> tuple[float, tuple[float, ...]]:
    """(the usual learning rate, losses of one step at each multiple of it): a range test.

    Ends early where the loss is not finite or four times the least so far: it blew up.
    """
    setup = _settle(recipe, prepared, silence(), False, 1.0)
    tuning = open_model(setup, silence())
    rows = setup.standardised(render_training(setup.prepared.splits.train, setup.rendering))
    rows = with_references(setup, tuning, rows, silence())
    plan, training = tuning.plan, setup.recipe.training
    if training.head_init != "random":
        start_head(tuning.base, rows, plan.pad_id, class_offsets(setup))
    optimizer = MasterAdamW(tuning.parameters, plan.head_names, plan.rates, training)
    device = tuning.parameters[0][1].device
    cutting = MicroBatching(plan.max_batch_tokens, plan.pad_id, device, training.packing)
    tuning.base.model.train()
    losses: list[float] = []
    size = min(plan.batch_size, len(rows))
    for step, factor in enumerate(factors):
        batch = [rows[(step * size + i) % len(rows)] for i in range(size)]
        try:
            made = take_step(
                tuning.base.model, batch, cutting, optimizer,
                objective_of(setup, tuning.base),
                rate_factor=factor, seed=training.seed + step, on_out_of_memory=lambda most: None,
                label_smoothing=training.label_smoothing,
            )  # fmt: skip
        except (NonFiniteLossError, Refusal):
            break
        losses.append(made.loss)
        if made.loss > 4.0 * max(min(losses), 1e-3) and step > 5:
            break
    free(tuning.base)
    return plan.rates.base, tuple(losses)


def free(base: Base) -> None:
    """Give the memory of a model back: the next trial may need all of it."""
    base.drop()
    gc.collect()
    if base.device.type == "cuda":
        torch.cuda.empty_cache()
