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
from tunewright.data.prepare import Prepared, prepare
from tunewright.data.replay import choose_replay, is_held_out
from tunewright.decide.retune import (
    Account,
    Timing,
    Trigger,
    Window,
    add_window,
    decide_retune,
)
from tunewright.errors import DataError, RecipeError, RunError
from tunewright.evaluate.forgetting import Gate, Learning, open_gate, summarise
from tunewright.evaluate.predict import Asker
from tunewright.hosted import train_hosted
from tunewright.hosted_cost import Consent
from tunewright.hosted_use import HostedAsker, nobody, spent_usd, tuned_weights
from tunewright.journal import Journal
from tunewright.metrics.labels import is_right
from tunewright.metrics.stats import find_units, paired_share_interval
from tunewright.monitor.outcomes import suspicious_clients
from tunewright.monitor.traffic import read_traffic
from tunewright.pipeline import train
from tunewright.price_desk import Ask
from tunewright.records import Example, Prediction, Request
from tunewright.sections import RetuneSection
from tunewright.store import RunFolder, read_json, write_json, write_jsonl

TASKS = ("classify", "generate")
SEED = 17
SURE = 0.9
CONTINUE_SHARE = 0.1
FEWEST_NEW = 10
OLD = "first"
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class NewRow:
    """A labelled request: the row, who labelled it, for whom it was asked."""

    example: Example
    by: str
    client: str | None


@dataclass(frozen=True)
class TrainingSet:
    """What the next model learns from and is judged on. tasks: name to rows that judge it; the last
    is the new one. left_out: why rows were not taken, and how many.
    """

    old: tuple[Example, ...]
    new: tuple[NewRow, ...]
    validation: tuple[Example, ...]
    tasks: dict[str, tuple[Example, ...]]
    left_out: dict[str, int]
    clients: tuple[tuple[str, float, float, int], ...]
    old_rows: int


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
    recipe = read_recipe(folder.recipe, overrides)
    asker = open_answerer(str(folder.path), journal, consent=consent, ask=ask)
    if asker.rendering.task not in TASKS:
        raise RecipeError(
            f"{folder.path}: task {asker.rendering.task} cannot be tuned again yet; "
            f"retune knows {' and '.join(TASKS)}"
        )
    if recipe.retune.strategy == "continue" and recipe.provider == "google":
        raise RecipeError("retune.strategy is continue; at google a job starts from the base")
    adapter = not asker.is_remote and not (folder.model / "config.json").exists()
    if recipe.retune.strategy == "continue" and adapter:
        raise RecipeError(
            "retune.strategy is continue, but this run holds an adapter; use base, or export it "
            "merged first"
        )
    prepared = prepare(recipe.data, asker.rendering.task, journal)
    requests = [request for request in read_traffic(new) if request.label is not None]
    if len(requests) < FEWEST_NEW:
        raise DataError(
            f"{new}: {len(requests)} rows with a label; tuning again needs at least {FEWEST_NEW}"
        )
    if isinstance(asker, HostedAsker):
        asker.remember(requests)
    answers = _ask(asker, [_row(r) for r in requests], journal)
    rows = _build(folder, prepared, requests, answers, recipe.retune)
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


def _row(request: Request) -> Example:
    output = request.label
    return Example(id=request.id, place="traffic", input=request.input, output=output)


def _ask(asker: Asker, rows: Sequence[Example], journal: Journal) -> list[Prediction]:
    with journal.progress("asking the present model", 1.0) as advance:
        return asker.predict(
            rows, system="tuned", split="new", advance=lambda done: advance(done, "")
        )


def _build(
    folder: RunFolder,
    prepared: Prepared,
    requests: Sequence[Request],
    answers: Sequence[Prediction],
    how: RetuneSection,
) -> TrainingSet:
    """Sorts new rows: suspect clients, texts that judge, model-made labels beyond their cap, the
    stream that is never trained; and chooses old rows.
    """
    left_out: Counter[str] = Counter()
    clients = _suspects(requests, answers)
    suspect = {name for name, *_ in clients}
    sides = prepared.splits
    judging = {plain_words(row.input) for row in (*sides.validation, *sides.test)}
    people: list[NewRow] = []
    made: list[NewRow] = []
    held: list[Example] = []
    seen: set[str] = set()
    for request in requests:
        row, words = _row(request), plain_words(request.input)
        if request.client in suspect:
            left_out["labels of a suspect client"] += 1
        elif words in judging:
            left_out["text judges already"] += 1
        elif words in seen:
            left_out["text repeated"] += 1
        elif is_held_out(row, how.holdout) and request.label_by != "model":
            held.append(row)
        else:
            by = request.label_by or "person"
            (made if by == "model" else people).append(NewRow(row, by, request.client))
        seen.add(words)
    most = int(how.model_labels * len(people) / max(1 - how.model_labels, 1e-9))
    left_out["model-made labels beyond the cap"] += max(0, len(made) - most)
    share = how.replay
    if share == "auto":
        share = 1.0 if how.strategy == "base" else CONTINUE_SHARE
    tasks = {name: rows for name, rows in _old_tasks(folder, sides.test).items() if rows}
    tasks[f"update {len(tasks)}"] = tuple(held)
    return TrainingSet(
        old=tuple(choose_replay(sides.train, share, seed=SEED)),
        new=(*people, *made[:most]),
        validation=tuple(sides.validation),
        tasks=tasks,
        left_out={name: count for name, count in left_out.items() if count},
        clients=tuple(clients),
        old_rows=len(sides.train),
    )


def _suspects(
    requests: Sequence[Request], answers: Sequence[Prediction]
) -> list[tuple[str, float, float, int]]:
    """Clients whose labels contradict sure answers of the present model as no others' do."""
    sure = [i for i, answer in enumerate(answers) if (answer.confidence or 0.0) >= SURE]
    wrong = np.array([1.0 - float(is_right(answers[i])) for i in sure])
    return suspicious_clients([requests[i].client for i in sure], wrong)


def _old_tasks(folder: RunFolder, test: Sequence[Example]) -> dict[str, tuple[Example, ...]]:
    """The rows that judge, by task; runs that came of a retune keep theirs in lineage.json."""
    path = folder.path / "lineage.json"
    if not path.exists():
        return {OLD: tuple(test)}
    owners = {str(text): str(name) for text, name in read_json(path)["judges"].items()}
    tasks: dict[str, list[Example]] = {}
    for row in test:
        tasks.setdefault(owners.get(plain_words(row.input), OLD), []).append(row)
    return {name: tuple(rows) for name, rows in tasks.items()}


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
    start = "the base" if how.strategy == "base" else "the tuned weights"
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
        recipe = write_set(plan, run_dir.with_name(run_dir.name + "-data"))
    learn(recipe, run_dir, journal)
    fresh = open_answerer(str(run_dir), journal, consent=consent, ask=ask)
    right = {
        name: (_rights(asker, rows, journal), _rights(fresh, rows, journal))
        for name, rows in plan.rows.tasks.items()
        if rows
    }
    update = judge(plan, run_dir, right)
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


def _rights(asker: Asker, rows: Sequence[Example], journal: Journal) -> Floats:
    return np.array([float(is_right(answer)) for answer in _ask(asker, rows, journal)])


def write_set(plan: Plan, data: Path) -> Recipe:
    """The files of the next training, and the recipe that reads them."""
    data.mkdir(parents=True, exist_ok=True)
    rows = plan.rows
    old = [_line(row, "old") for row in rows.old]
    new = [_line(row.example, f"new, by {row.by}") for row in rows.new]
    write_jsonl(data / "train.jsonl", [*old, *new])
    write_jsonl(data / "validation.jsonl", [_line(row, "old") for row in rows.validation])
    write_jsonl(data / "test.jsonl", [
        _line(row, name) for name, task in rows.tasks.items() for row in task
    ])  # fmt: skip
    values: dict[str, Any] = {
        "data.train": str(data / "train.jsonl"),
        "data.validation": str(data / "validation.jsonl") if rows.validation else 0.1,
        "data.test": str(data / "test.jsonl"),
        "data.columns": {"input": "input", "output": "output"},
        "data.format": "jsonl",
        "data.group": None,
        "data.label_separator": None,
        "data.max_rows": None,
    }
    if plan.strategy == "continue":
        values["base_model"] = tuned_weights(RunFolder(plan.folder))
    return with_values(plan.recipe, values)


def _line(row: Example, origin: str) -> dict[str, Any]:
    if row.columns or not isinstance(row.output, str):
        raise DataError(
            f"{row.place}: rows with side columns or several labels cannot be tuned again yet"
        )
    return {"input": row.input, "output": row.output, "origin": origin}


def judge(plan: Plan, run_dir: Path, right: dict[str, tuple[Floats, Floats]]) -> Update:
    """The gate over old tasks, the gain on the new one, the matrix so far.

    right: per task 1 or 0 for each row of the old model, and of the new one.
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
    names, matrix = _matrix(plan, right)
    square = len(matrix) == len(names)
    return Update(
        run=run_dir,
        gate=gate,
        promoted=gate.open and better,
        because=tuple(because),
        new_task=told,
        names=names,
        matrix=matrix,
        learning=summarise(matrix) if square and len(names) > 1 else None,
    )


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
    document = asdict(replace(update, learning=None))
    document["learning"] = update.learning and asdict(update.learning)
    return document
