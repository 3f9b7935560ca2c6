"""`retune`: a tuned model that is tuned again on old and new rows, and let in only if it is better
on the new ones and no worse on any task that was there before.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.asking import open_answerer
from tunewright.config import Recipe, read_recipe, with_values
from tunewright.data.clean import plain_words
from tunewright.data.prepare import prepare
from tunewright.decide.retune import (
    Account,
    Timing,
    Trigger,
    Window,
    add_window,
    decide_retune,
)
from tunewright.errors import DataError, RecipeError, RunError
from tunewright.evaluate.ability import Ability, compare_ability
from tunewright.evaluate.forgetting import Gate, Learning, open_gate, summarise
from tunewright.evaluate.predict import Asker
from tunewright.hosted import train_hosted
from tunewright.hosted_cost import Consent, nobody
from tunewright.hosted_use import HostedAsker, spent_usd, tuned_weights
from tunewright.journal import Journal
from tunewright.metrics.labels import is_right
from tunewright.metrics.stats import find_units, paired_share_interval
from tunewright.monitor.traffic import read_traffic
from tunewright.pipeline import train
from tunewright.price_desk import Ask
from tunewright.records import Example, Prediction
from tunewright.sections import RetuneSection
from tunewright.store import RunFolder, read_json, write_json
from tunewright.training_set import (
    TrainingSet,
    build_set,
    row_of,
    write_old,
    write_pool,
    write_set,
)

TASKS = ("classify", "generate")
FEWEST_NEW = 10
REDERIVED = frozenset({
    "training.learning_rate", "training.head_learning_rate", "training.batch_size",
    "training.num_epochs", "training.max_length", "training.max_batch_tokens",
    "training.eval_steps", "evaluation.max_new_tokens",
})  # fmt: skip
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """What `retune` would do. error_new, error_usual: of the present model on new rows and on the
    rows that judged it first.
    """

    folder: Path
    recipe: Recipe
    rows: TrainingSet
    strategy: str
    error_new: float
    error_usual: float
    timing: Timing | None
    why: tuple[str, ...]


@dataclass(frozen=True)
class Update:
    """What was done: the new run, the gate, the matrix of scores with what it comes to."""

    run: Path
    gate: Gate
    promoted: bool
    because: tuple[str, ...]
    new_task: dict[str, Any]
    names: tuple[str, ...]
    matrix: tuple[tuple[float, ...], ...]
    learning: Learning | None
    probe: Ability | None = None


def plan_retune(
    folder: RunFolder,
    new: Path,
    journal: Journal,
    overrides: Sequence[str] = (),
    *,
    consent: Consent | None = None,
    ask: Ask | None = None,
) -> tuple[Plan, Asker]:
    """The next training set, and whether it is worth its cost; changes nothing.

    new: labelled requests in any form that `watch` reads. consent, ask: of a run that was tuned
    elsewhere, before answers that the log lacks are paid for. Raises DataError with too few labels,
    RecipeError for tasks and strategies that it does not know how to carry on.
    """
    recipe = _derive_anew(read_recipe(folder.recipe, overrides), folder, overrides)
    asker = open_answerer(str(folder.path), journal, consent=consent, ask=ask)
    if asker.rendering.task not in TASKS:
        raise RecipeError(
            f"{folder.path}: task {asker.rendering.task} cannot be tuned again yet; "
            f"retune knows {' and '.join(TASKS)}"
        )
    strategy = recipe.retune.strategy
    if strategy == "continue" and recipe.provider == "google":
        raise RecipeError("retune.strategy is continue; at google a job starts from the base")
    if strategy in ("ewc", "merge") and asker.is_remote:
        raise RecipeError(f"retune.strategy is {strategy}, which needs the weights; use base")
    prepared = prepare(recipe.data, asker.rendering.task, journal)
    requests = [request for request in read_traffic(new) if request.label is not None]
    if len(requests) < FEWEST_NEW:
        raise DataError(
            f"{new}: {len(requests)} rows with a label; tuning again needs at least {FEWEST_NEW}"
        )
    if isinstance(asker, HostedAsker):
        asker.remember(requests)
    answers = _ask(asker, [row_of(r) for r in requests], journal)
    rows = build_set(folder, prepared, requests, answers, recipe.retune)
    right = np.array([float(is_right(answer)) for answer in answers])
    judged = [row for task in rows.tasks.values() for row in task][: len(prepared.splits.test)]
    usual = (
        1 - float(np.mean([is_right(a) for a in _ask(asker, judged, journal)])) if judged else 0.0
    )
    timing = _timing(folder, recipe, 1 - float(right.mean()), usual, len(requests))
    why = _reasons(rows, 1 - float(right.mean()), usual, timing, recipe.retune)
    plan = Plan(folder.path, recipe, rows, recipe.retune.strategy, 1 - float(right.mean()), usual,
                timing, why)  # fmt: skip
    return plan, asker


def _derive_anew(recipe: Recipe, folder: RunFolder, overrides: Sequence[str]) -> Recipe:
    """The recipe with what followed from the old rows at auto again: the new rows are others."""
    derived = read_json(folder.state).get("derived", ()) if folder.state.exists() else ()
    given = {override.partition("=")[0].strip() for override in overrides}
    keys = {str(item["key"]) for item in derived} - given
    return with_values(recipe, dict.fromkeys(sorted(keys & REDERIVED), "auto"))


def _ask(asker: Asker, rows: Sequence[Example], journal: Journal) -> list[Prediction]:
    with journal.progress("asking the present model", 1.0) as advance:
        return asker.predict(
            rows, system="tuned", split="new", advance=lambda done: advance(done, "")
        )


def _timing(
    folder: RunFolder, recipe: Recipe, error: float, usual: float, count: int
) -> Timing | None:
    """Whether these rows' errors alone would pay for tuning; None where no cost is known."""
    how, business = recipe.retune, recipe.business
    cost = business.cost_per_error_usd
    price = how.retune_usd
    if price is None and business.train_usd is not None:
        price = business.train_usd + business.evaluation_usd
    if price is None and recipe.provider != "here":
        price = spent_usd(folder)  # the bill for the last time
    if cost is None or price is None:
        return None
    likely = float(cost[1] if isinstance(cost, tuple) else cost) * business.error_relevance
    trigger = Trigger(likely, price, how.threshold, cooldown_s=0.0)
    account = add_window(Account(0.0, 0.0), Window(0.0, count, (error - usual) * count))
    return decide_retune(account, trigger)


def _reasons(
    rows: TrainingSet, error: float, usual: float, timing: Timing | None, how: RetuneSection
) -> tuple[str, ...]:
    said = [
        f"the present model errs on {100 * error:.1f} % of the new rows, on {100 * usual:.1f} % of "
        "those that judged it"
    ]
    if timing is None:
        said.append(
            "whether it is worth the money is not known: set business.cost_per_error_usd and "
            "retune.retune_usd"
        )
    else:
        said.append(("worth it now: " if timing.now else "not yet worth it: ") + timing.because)
    people = sum(row.by != "model" for row in rows.new)
    said.append(
        f"learns from {len(rows.old):,} of {rows.old_rows:,} old and {len(rows.new):,} new rows "
        f"({people:,} labelled by people, {len(rows.new) - people:,} by a model)"
    )
    name, held = list(rows.tasks.items())[-1]
    said.append(f"{len(held):,} new rows are never trained on and judge {name}")
    said += [f"left out: {count:,} rows, {what}" for what, count in rows.left_out.items()]
    said += [
        f"client {name}: {100 * share:.0f} % of {count} labels contradict sure answers, of others "
        f"{100 * others:.0f} %"
        for name, share, others, count in rows.clients
    ]
    start = {
        "base": "the base", "continue": "the tuned weights",
        "ewc": "the tuned weights, those that old rows depend on held",
        "merge": f"the base, and merges with the tuned model ({how.merge})",
    }[how.strategy]  # fmt: skip
    said.append(
        f"tunes from {start}; promoted only if no old task loses {100 * how.margin:g} points"
    )
    return tuple(said)


def retune(
    plan: Plan,
    asker: Asker,
    run_dir: Path,
    journal: Journal,
    *,
    learn: Callable[[Recipe, Path, Journal], Any] | None = None,
    resume: bool = False,
    consent: Consent | None = None,
    ask: Ask | None = None,
) -> Update:
    """Tune again as planned into run_dir, and judge old and new model on every task.

    learn: trains a recipe into a folder; None for the provider of the run. resume: go on with the
    training that stands in run_dir. consent, ask: of a run that is tuned elsewhere, before money is
    spent. Raises RunError where run_dir is taken, and what training raises.
    """
    resume = resume and RunFolder(run_dir).recipe.exists()  # else nothing was begun there
    if run_dir.exists() and any(run_dir.iterdir()) and not resume:
        raise RunError(f"{run_dir}: is not empty; give another --run-dir, or --resume")
    if learn is None:
        learn = partial(_train, resume=resume, consent=consent, ask=ask)
    if resume:
        recipe = read_recipe(RunFolder(run_dir).recipe)
    else:
        recipe = next_recipe(plan, data_of(run_dir))
    learn(recipe, run_dir, journal)
    write_pool(plan.rows.pool, RunFolder(run_dir))
    fresh = open_answerer(str(run_dir), journal, consent=consent, ask=ask)
    right = {
        name: (_rights(asker, rows, journal), _rights(fresh, rows, journal))
        for name, rows in plan.rows.tasks.items()
        if rows
    }
    probe = None
    if not (asker.is_remote or fresh.is_remote):
        with journal.progress("what both can do beside the task", 1.0):
            probe = compare_ability(asker, fresh)
    update = judge(plan, run_dir, right, probe)
    record_lineage(plan, update)
    return update


def _train(
    recipe: Recipe,
    run_dir: Path,
    journal: Journal,
    *,
    resume: bool,
    consent: Consent | None,
    ask: Ask | None,
) -> None:
    """Train where the run before was trained."""
    if recipe.provider == "here":
        train(recipe, run_dir, journal, resume=resume)
    else:
        train_hosted(recipe, run_dir, journal, resume=resume, consent=consent or nobody, ask=ask)


def data_of(run_dir: Path) -> Path:
    """Where the rows of a run that comes of a retune lie."""
    return run_dir.with_name(run_dir.name + "-data")


def next_place(old: Path) -> Path:
    """A free folder beside the old run: its name with a number."""
    number = 2
    while (place := old.with_name(f"{old.name}-{number}")).exists() or data_of(place).exists():
        number += 1
    return place


def _rights(asker: Asker, rows: Sequence[Example], journal: Journal) -> Floats:
    return np.array([float(is_right(answer)) for answer in _ask(asker, rows, journal)])


def next_recipe(plan: Plan, data: Path) -> Recipe:
    """Write the next training set into `data`; the recipe that learns from it."""
    here = plan.recipe.provider == "here"  # nobody else knows what a row's weight means
    values = write_set(plan.rows if here else replace(plan.rows, classes=False), data)
    how, model = plan.recipe.retune, str(RunFolder(plan.folder).model)
    keep: dict[str, Any] = {"ewc": 0.0, "rows": None, "model": None}
    if plan.strategy in ("continue", "ewc"):
        values["base_model"] = tuned_weights(RunFolder(plan.folder))
    if plan.strategy == "ewc":
        keep |= {"ewc": how.ewc, "rows": str(write_old(plan.rows, data))}
    if plan.strategy == "merge":
        keep |= {"model": model, "merge": how.merge}
    values |= {f"keep.{key}": value for key, value in keep.items()}
    return with_values(plan.recipe, values)


def judge(
    plan: Plan,
    run_dir: Path,
    right: dict[str, tuple[Floats, Floats]],
    probe: Ability | None = None,
) -> Update:
    """The gate over old tasks, the gain on the new one, the matrix so far.

    right: per task 1 or 0 for each row of the old model, and of the new one. probe: what the two
    can do beside the task; it closes the gate where retune.ability_margin is set and surely lost.
    """
    *old_names, new_name = plan.rows.tasks
    gate = open_gate(
        {name: right[name] for name in old_names if name in right}, margin=plan.recipe.retune.margin
    )
    because, gain = list(gate.because), math.nan
    told: dict[str, Any] = {"name": new_name, "n": 0}
    if new_name in right:
        before, after = right[new_name]
        difference = after - before
        gain = float(difference.mean())
        low, high = paired_share_interval(difference, find_units([None] * len(difference)))
        told = {"name": new_name, "n": len(after), "old": float(before.mean()),
                "new": float(after.mean()), "gain": gain, "ci95": [low, high]}  # fmt: skip
        because.append(
            f"{new_name}: {100 * gain:+.1f} points on {len(after):,} new rows that nobody trained "
            f"on ({100 * low:+.1f} to {100 * high:+.1f})"
        )
    else:
        because.append(f"{new_name}: no new row was held out, so no gain is shown")
    better = gain > 0
    most = plan.recipe.retune.ability_margin
    spoilt = probe is not None and most is not None and probe.ci95[1] < -most
    if probe is not None:
        because.append(f"general ability: {probe.says}" + ("; too much" if spoilt else ""))
    names, matrix = _matrix(plan, right)
    square = len(matrix) == len(names)
    return Update(
        run=run_dir,
        gate=gate,
        promoted=gate.open and better and not spoilt,
        because=tuple(because),
        new_task=told,
        names=names,
        matrix=matrix,
        learning=summarise(matrix, _guesses(plan, names)) if square and len(names) > 1 else None,
        probe=probe,
    )


def _guesses(plan: Plan, names: Sequence[str]) -> list[float]:
    """Per task the score of always giving its commonest answer: what is had without learning."""
    tasks = [Counter(str(row.output) for row in plan.rows.tasks[name]) for name in names]
    return [counts.most_common(1)[0][1] / counts.total() for counts in tasks]


def _matrix(
    plan: Plan, right: dict[str, tuple[Floats, Floats]]
) -> tuple[tuple[str, ...], tuple[tuple[float, ...], ...]]:
    """(tasks, a row of their scores after each update); the first row is the present model's."""
    names = tuple(name for name in plan.rows.tasks if name in right)
    path = plan.folder / "lineage.json"
    before = read_json(path)["matrix"] if path.exists() else []
    present = [float(right[name][0].mean()) for name in names]
    kept = [[*row, *present[len(row) :]][: len(names)] for row in before] or [present]
    return names, tuple(map(tuple, [*kept, [float(right[name][1].mean()) for name in names]]))


def record_lineage(plan: Plan, update: Update) -> None:
    """lineage.json in the new run: where it comes from, which rows judge what, all scores."""
    judges = {
        plain_words(row.input): name for name, rows in plan.rows.tasks.items() for row in rows
    }
    write_json(update.run / "lineage.json", {
        "parent": plan.folder, "strategy": plan.strategy, "promoted": update.promoted,
        "because": update.because, "names": update.names, "matrix": update.matrix,
        "learning": update.learning and asdict(update.learning),
        "left_out": plan.rows.left_out, "judges": judges,
        "probe": update.probe and asdict(update.probe),
        "model_made_labels": sum(row.by == "model" for row in plan.rows.new),
    })  # fmt: skip


def plan_document(plan: Plan) -> dict[str, Any]:
    """A plan as plain values, for --json."""
    rows = plan.rows
    return {
        "run": plan.folder, "strategy": plan.strategy, "why": plan.why,
        "now": None if plan.timing is None else plan.timing.now,
        "timing": None if plan.timing is None else asdict(plan.timing),
        "error_new": plan.error_new, "error_usual": plan.error_usual,
        "rows": {"old": len(rows.old), "new": len(rows.new),
                 "held_out": {name: len(task) for name, task in rows.tasks.items()},
                 "left_out": rows.left_out},
        "suspicious_clients": [name for name, *_ in rows.clients],
    }  # fmt: skip


def update_document(update: Update) -> dict[str, Any]:
    """An update as plain values, for --json."""
    document = asdict(replace(update, learning=None, probe=None))
    document["learning"] = update.learning and asdict(update.learning)
    document["probe"] = update.probe and asdict(update.probe)
    return document
