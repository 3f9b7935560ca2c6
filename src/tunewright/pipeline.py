"""A run from recipe to report: the shop window. `train` reads as the story of the product.

Everything that a stage needs from an earlier one is an argument or a file of the run folder, so a
run that was killed goes on from what is on disk.
"""

from __future__ import annotations

import gc
import os
import platform
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tunewright.asking import open_asker
from tunewright.canaries import measure_exposure, plant
from tunewright.confidence import settle_confidence
from tunewright.config import Recipe, dump_recipe, parse_recipe
from tunewright.cost.devices import forecast_kwh
from tunewright.data.card import with_token_lengths
from tunewright.data.prepare import Prepared, prepare
from tunewright.data.preview import Preview, make_preview
from tunewright.data.render import Row, render
from tunewright.data.row_file import lost_targets, row_lengths
from tunewright.errors import RecipeError, Refusal, RunError, UserError
from tunewright.evaluate.compare import compare
from tunewright.evaluate.details import make_details
from tunewright.evaluate.gap import find_gap
from tunewright.evaluate.saved import read_predictions, save_predictions
from tunewright.evaluate.score import score
from tunewright.evaluate.verdict import judge
from tunewright.grading import make_graded
from tunewright.hosted_cost import Consent
from tunewright.hosted_rivals import answer_beside, describe_beside, price_beside
from tunewright.journal import Journal, open_tracker, silence
from tunewright.judging import check_judge, measure_agreement, with_judge
from tunewright.keeping_old import anchored, check_keep, merged_with_old
from tunewright.learning import (
    check_preferences,
    class_offsets,
    objective_of,
    with_references,
)
from tunewright.metrics.table import check_metrics, find_metric, lacks, metrics_for
from tunewright.model.device import check_workers, device_name, read_energy_j, resident_memory
from tunewright.model.load import Base
from tunewright.model.manifest import read_manifest
from tunewright.model.weights import load_tuned, save_tuned
from tunewright.preparing import prepare_for_training
from tunewright.price_desk import Ask
from tunewright.records import (
    Amount,
    Comparison,
    Cost,
    Derived,
    Prediction,
    Report,
    Result,
    StepLog,
)
from tunewright.registry import VERSION
from tunewright.report.files import read_report, write_report
from tunewright.rivals import answer_with_rivals, check_rivals
from tunewright.rollouts import make_rollouts
from tunewright.sections import COMPARING
from tunewright.setup import PREFERRED, Setup, Tuning, make_setup, open_model, prompt_rows
from tunewright.spreading import spread_model
from tunewright.store import (
    RunFolder,
    append_jsonl,
    open_run,
    owning_run,
    read_json,
    read_jsonl,
    write_atomic,
    write_json,
    write_jsonl,
)
from tunewright.teaching import ask_teacher, learns_from_logits, with_teacher
from tunewright.tokenising import render_for_training
from tunewright.train.head import start_head
from tunewright.train.loop import Evaluation, Fitted, Plan, fit
from tunewright.train.parallel import ALONE, Ranks
from tunewright.train.sharding import frozen_state
from tunewright.validation import make_judge
from tunewright.weighing import short_form

QUICKSTART = """\
task: classify
base_model: embedded:minilm
data:
  train: embedded:support-tickets
training:
  num_epochs: 4           # enough to be convincing, and done in two minutes
  learning_rate: 2.0e-4   # less loss on validation than the default, at two seeds
"""


def quickstart(
    run_dir: Path, journal: Journal, *, resume: bool = False, overrides: Sequence[str] = ()
) -> Report:
    """The main job on embedded model and data, offline."""
    recipe = parse_recipe(QUICKSTART, "quickstart", overrides)
    return train(recipe, run_dir, journal, resume=resume)


def train(
    recipe: Recipe,
    run_dir: Path,
    journal: Journal,
    *,
    resume: bool = False,
    ranks: Ranks = ALONE,
    consent: Consent | None = None,
    ask: Ask | None = None,
) -> Report:
    """Tune a model by a recipe; leaves the run folder of DESIGN.md section 4 and its report.

    ranks: those that train together; this is what rank 0 does, the others call `assist`.
    consent, ask: asked before a hosted model under evaluation.beside costs money, and for a price
    that is missing.

    Raises UserError for what the user can mend, Refusal when it will not fit, Interrupted when
    stopped; each leaves the folder resumable.
    """
    folder = open_run(run_dir, resume=resume)
    journal.log_file = folder.log
    if resume:
        journal.recall()
    with owning_run(folder):
        return _train(recipe, folder, journal, resume, ranks, (consent, ask))


def assist(ranks: Ranks) -> None:
    """What a rank beside the first does in `train`: prepares the same, learns its share, leaves."""
    told = ranks.tell()
    if not told:  # the run is finished already
        return ranks.leave()
    quiet = silence()
    recipe = parse_recipe(told["recipe"], f"rank {ranks.rank}")
    setup = make_setup(recipe, prepare_for_training(recipe, quiet), quiet)
    _learn(setup, RunFolder(Path(told["folder"])), quiet, told["resume"], ranks)
    return ranks.leave()


def _train(
    recipe: Recipe,
    folder: RunFolder,
    journal: Journal,
    resume: bool,
    ranks: Ranks,
    spending: tuple[Consent | None, Ask | None],
) -> Report:
    started, baseline = time.time(), resident_memory(torch.device("cpu"))
    energy = read_energy_j()
    recipe, before_s = begin_run(folder, recipe, resume, started)
    if resume and folder.report_json.exists():
        journal.say(f"{folder.path}: finished already; nothing left to do")
        ranks.tell({})
        ranks.leave()
        return read_report(folder.report_json)

    setup = _prepare(recipe, folder, journal, resume, spending)
    setup = _with_earlier_reasons(setup, folder)
    setup = replace(
        setup,
        baseline_memory_bytes=baseline if setup.device.type == "cpu" else 0,
        energy_start_j=None if resume else energy,
    )
    note_state(folder, stage="training", derived=setup.derived)
    write_atomic(folder.recipe, dump_recipe(setup.recipe, setup.derived))
    ranks.tell({"recipe": dump_recipe(setup.recipe), "folder": str(folder.path), "resume": resume})
    fitted = _train_model(setup, folder, journal, resume, ranks)

    note_state(folder, stage="evaluating")
    predictions = _answer(setup, folder, journal)
    metrics = choose_metrics(setup.recipe, setup.prepared)
    results = _score(predictions, metrics, setup, journal)
    comparisons = _compare(predictions, metrics[0], setup)
    seconds = before_s + time.time() - started
    report = _report(
        setup, folder, fitted, predictions, results, comparisons, metrics, seconds, journal
    )
    write_report(folder, replace(report, details={**report.details, "warnings": journal.warnings}))
    note_state(folder, stage="finished")
    return report


def _prepare(
    recipe: Recipe,
    folder: RunFolder,
    journal: Journal,
    resume: bool,
    spending: tuple[Consent | None, Ask | None],
) -> Setup:
    """Everything before the first step. A run that fails here leaves its folder as it was."""
    try:
        if recipe.candidates:
            raise RecipeError(
                f"base_model is a list of {len(recipe.candidates)}; `tunewright choose` finds the "
                "one to train"
            )
        check_rivals(recipe)
        check_workers(recipe.training.num_workers)
        prepared = prepare_for_training(recipe, journal)
        prepared = with_teacher(recipe, prepared, folder, journal)
        prepared = plant(prepared, recipe.training.canaries, recipe.training.seed, journal)
        check_preferences(recipe, prepared)
        check_judge(recipe)
        choose_metrics(recipe, prepared)  # a wrong name is told before a weight is loaded
        if recipe.evaluation.beside and not resume:
            price_beside(recipe, prepared, folder, journal, *spending)
        setup = make_setup(recipe, prepared, journal)
        check_keep(setup)
        return replace(
            setup,
            distributions=learns_from_logits(recipe),
            graded=make_graded(recipe.graders, open_asker),
        )
    except (UserError, Refusal):
        # Nothing was learned yet, so the mended recipe may start in the same place.
        if not resume:
            for path in (folder.recipe, folder.state, folder.log, folder.rollouts):
                path.unlink(missing_ok=True)
        raise


def preview(recipe: Recipe, journal: Journal, *, rows: int = 3) -> list[Preview]:
    """The first training rows as the model will see them; writes nothing and trains nothing."""
    setup = make_setup(recipe, prepare(recipe.data, recipe.task, journal), journal)
    shown = setup.prepared.splits.train[:rows]
    return [make_preview(row, setup.rendering) for row in render(shown, setup.rendering)]


def choose_metrics(recipe: Recipe, prepared: Prepared) -> tuple[str, ...]:
    """The recipe's metrics, or those of the task; the first decides."""
    layout, splits = prepared.layout, prepared.splits
    if recipe.objective in COMPARING:
        wished = recipe.evaluation.metrics
        if wished != "auto":
            check_metrics(wished, "classify", PREFERRED)
        return ("accuracy",) if wished == "auto" else tuple(wished)
    if recipe.evaluation.metrics == "auto" and recipe.graders:
        answered = any(example.output for example in (*splits.train, *splits.test))
        more = metrics_for(layout.task, splits.train + splits.test) if answered else ()
        return ("reward", *more)
    if recipe.evaluation.metrics == "auto":
        if prepared.metrics is not None:
            return prepared.metrics
        return metrics_for(layout.task, splits.train + splits.test, layout.labels)
    check_metrics(recipe.evaluation.metrics, layout.task, layout.labels)
    return tuple(recipe.evaluation.metrics)


def begin_run(
    folder: RunFolder, recipe: Recipe, resume: bool, started: float
) -> tuple[Recipe, float]:
    """Write down what was asked for; on resume, check that it is the same and use what was derived.

    Returns the recipe to run and the seconds that earlier attempts took.
    """
    asked = dump_recipe(recipe)
    # The recipe is what makes a folder a run, so it is written last.
    if not (resume and folder.recipe.exists() and folder.state.exists()):
        state = {
            "stage": "preparing", "started": started, "pid": os.getpid(),
            "host": socket.gethostname(), "asked": asked, "tunewright": version("tunewright"),
        }  # fmt: skip
        write_json(folder.state, state)
        write_atomic(folder.recipe, asked)
        return recipe, 0.0
    state = read_json(folder.state)
    saved = parse_recipe(folder.recipe.read_text(encoding="utf-8"), str(folder.recipe))
    if asked not in (state.get("asked"), dump_recipe(saved)):
        raise RunError(
            f"{folder.path}: the recipe is not the one this run began with; "
            "give another --run-dir, or the recipe as it was"
        )
    note_state(folder, pid=os.getpid(), host=socket.gethostname())
    steps = read_jsonl(folder.steps)
    before_s = float(steps[-1]["seconds"]) if steps else 0.0
    return saved, before_s


def note_state(folder: RunFolder, **values: Any) -> None:
    """Write something down in state.json."""
    write_json(folder.state, {**read_json(folder.state), **values})


def _with_earlier_reasons(setup: Setup, folder: RunFolder) -> Setup:
    """A resumed run derives nothing anew; its reasons are those that the first start wrote down."""
    earlier = [Derived(**item) for item in read_json(folder.state).get("derived", ())]
    reasons = {item.key: item for item in (*earlier, *setup.derived)}
    return replace(setup, derived=tuple(reasons.values()))


def _train_model(
    setup: Setup, folder: RunFolder, journal: Journal, resume: bool, ranks: Ranks
) -> Fitted:
    """Tune, and leave model/ with the best weights."""
    tuning, fitted, frozen = _learn(setup, folder, journal, resume, ranks)
    ranks.leave()
    temperature, base = None, tuning.base
    if ranks.sharding is None:  # else nobody holds a whole model that could be asked
        metrics = choose_metrics(setup.recipe, setup.prepared)
        base, fitted = merged_with_old(setup, base, fitted, metrics, journal)
        fitted, temperature = settle_confidence(setup, base, fitted, journal)
    manifest = {**setup.manifest(), "temperature": temperature}
    save_tuned(base, folder.model, state={**frozen, **fitted.weights}, extra=manifest)
    journal.say(
        f"trained {fitted.steps} steps in {fitted.seconds:.0f} s ({fitted.ended}); "
        f"best at step {fitted.best_step}"
    )
    _free(base)
    return replace(fitted, weights={})


def _learn(
    setup: Setup, folder: RunFolder, journal: Journal, resume: bool, ranks: Ranks
) -> tuple[Tuning, Fitted, dict[str, torch.Tensor]]:
    """(model, what training came to, frozen weights that only the ranks together hold)."""
    if setup.objective == "grpo":
        made: Sequence[Row] = prompt_rows(setup.prepared.splits.train, setup.rendering)
    elif setup.rows is not None:
        made = setup.rows
    else:
        made = render_for_training(setup.prepared, setup.rendering, journal)
    rows = setup.standardised(made)
    tuning = open_model(setup, journal, rows=rows)
    rows = with_references(setup, tuning, rows, journal)
    training = setup.recipe.training
    if ranks.is_first:
        _write_card(setup, rows, folder, journal)
        journal.trackers = [
            open_tracker(name, folder.path, setup.recipe.model_dump()) for name in training.trackers
        ]
    fitted_head = training.head_init != "random" and start_head(
        tuning.base, rows, tuning.plan.pad_id, class_offsets(setup)
    )
    if fitted_head:
        journal.say("the new head starts from a linear model on the frozen base")
    mixing = training.interpolate == "on" or (training.interpolate == "auto" and fitted_head)
    parameters = spread_model(setup, tuning, ranks, journal)
    metrics = choose_metrics(setup.recipe, setup.prepared)
    judge = make_judge(setup, tuning.base, metrics, ranks)
    fitted = fit(
        tuning.base.model,
        parameters,
        rows,
        replace(_with_rollouts(setup, tuning, folder), fitted_start=mixing),
        training,
        objective=anchored(setup, tuning, objective_of(setup, tuning.base), journal),
        evaluate=None if judge is None else judge.look,
        noise=(lambda: 0.0) if judge is None else judge.noise,
        checkpoints=folder.checkpoints,
        log_step=partial(_log_step, folder, journal) if ranks.is_first else _ignore,
        log_evaluation=partial(_log_evaluation, folder, journal) if ranks.is_first else _ignore,
        forget_after=partial(_forget_after, folder) if ranks.is_first else _ignore,
        journal=journal,
        resume=resume,
        ranks=ranks,
    )
    whole = ranks.sharding is None or (tuning.base.is_adapted and not tuning.base.source.is_adapter)
    return tuning, fitted, {} if whole else frozen_state(tuning.base.model)


def _ignore(_: object) -> None:
    """Rank 0 alone keeps the logs."""


def _with_rollouts(setup: Setup, tuning: Tuning, folder: RunFolder) -> Plan:
    """The plan of a run, which tries answers before each step where the objective is grpo."""
    if setup.objective != "grpo":
        return tuning.plan
    log = partial(_log_rollout, folder)
    make = make_rollouts(setup, tuning.base, tuning.plan.pad_id, log)
    return replace(tuning.plan, rollout=make, updates=setup.recipe.grpo.updates)


def _log_rollout(folder: RunFolder, line: dict[str, Any]) -> None:
    append_jsonl(folder.rollouts, [line])


def _free(base: Base) -> None:
    """Give back the memory of a model that is done with: the next one may need all of it."""
    base.drop()
    gc.collect()  # the training state stands in cycles
    if base.device.type == "cuda":
        torch.cuda.empty_cache()


def _write_card(setup: Setup, rows: Sequence[Row], folder: RunFolder, journal: Journal) -> None:
    lost = lost_targets(rows)
    if lost.any():
        journal.warn(
            f"data: {lost.sum()} target tokens of {(lost > 0).sum()} rows lie beyond "
            f"training.max_length {setup.rendering.max_length} and are not learned"
        )
    lengths = {"train": row_lengths(rows).tolist()}
    write_json(folder.card, _card(setup.prepared, lengths))


def _card(prepared: Prepared, lengths: dict[str, list[int]]) -> dict[str, Any]:
    if prepared.card is not None:
        return with_token_lengths(prepared.card, lengths)
    from tunewright.checking import make_full_card

    return make_full_card(prepared, lengths)


def _log_step(folder: RunFolder, journal: Journal, step: StepLog) -> None:
    append_jsonl(folder.steps, [step])
    journal.track({"loss": step.loss, "learning_rate": step.learning_rate}, step.step)


def _log_evaluation(folder: RunFolder, journal: Journal, evaluation: Evaluation) -> None:
    append_jsonl(folder.evaluations, [evaluation])
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in evaluation.metrics.items())
    mark = " (best)" if evaluation.best else ""
    journal.say(f"step {evaluation.step}: validation {numbers}{mark}")
    journal.track({f"validation/{k}": v for k, v in evaluation.metrics.items()}, evaluation.step)


def _forget_after(folder: RunFolder, step: int) -> None:
    """Drop log lines of steps that come again after a resume."""
    for path in (folder.steps, folder.evaluations, folder.rollouts):
        if path.exists():
            write_jsonl(path, [line for line in read_jsonl(path) if line["step"] <= step])


def _answer(setup: Setup, folder: RunFolder, journal: Journal) -> dict[str, list[Prediction]]:
    """Test predictions of the saved model, its base and the baselines; kept in the run folder."""
    if folder.predictions.exists():
        return _saved_answers(folder)
    test = setup.test
    if not test:
        journal.warn("no test rows: nothing to judge; give data.test a share or a file")
        return {}
    predictions = {
        "tuned": _ask_tuned(setup, folder, journal),
        **answer_with_rivals(setup, test, journal),
        **answer_beside(setup.recipe, setup.prepared, test, folder, journal),
    }
    if setup.recipe.objective == "distill":
        predictions["teacher"] = ask_teacher(setup.recipe, test, folder, journal)
    predictions = with_judge(setup.recipe, predictions, journal)
    note_state(folder, failed_rivals=[system for system, rows in predictions.items() if not rows])
    save_predictions(folder.predictions, [p for rows in predictions.values() for p in rows])
    # What was written is what is judged, so that a run resumed after this point scores the same.
    return _saved_answers(folder)


def _ask_tuned(setup: Setup, folder: RunFolder, journal: Journal) -> list[Prediction]:
    # What is judged is what is on disk, not what is in memory: loading it is part of the test.
    base = load_tuned(folder.model, device=setup.device, dtype=setup.dtype)
    with journal.progress("asking the tuned model", 1.0) as advance:
        tuned = setup.asker(base).predict(
            setup.test, system="tuned", split="test", advance=lambda done: advance(done, "")
        )
    if setup.recipe.training.canaries:
        training = setup.recipe.training
        note_state(folder, canaries=measure_exposure(setup.asker(base), training.canaries,
                                                     training.seed))  # fmt: skip
    _free(base)
    return tuned


def _saved_answers(folder: RunFolder) -> dict[str, list[Prediction]]:
    return {system: rows for (system, _), rows in read_predictions(folder.predictions).items()}


def _score(
    predictions: Mapping[str, Sequence[Prediction]],
    metrics: Sequence[str],
    setup: Setup,
    journal: Journal,
) -> tuple[Result, ...]:
    labels, seed = setup.judged_labels, setup.recipe.training.seed
    results = []
    with journal.progress("scoring", len(predictions)) as advance:
        for done, (system, rows) in enumerate(predictions.items(), 1):
            results.append(score(rows, metrics, labels=labels, seed=seed))
            advance(done, system)
    return tuple(results)


def _compare(
    predictions: Mapping[str, Sequence[Prediction]], metric: str, setup: Setup
) -> tuple[Comparison, ...]:
    """The tuned model against every other system, on the metric that decides."""
    labels, seed = setup.judged_labels, setup.recipe.training.seed
    chosen = find_metric(metric)
    others = [system for system in predictions if system != "tuned"]
    return tuple(
        compare(predictions["tuned"], predictions[other], metric, labels=labels, seed=seed)
        for other in others
        if predictions[other] and not lacks(chosen, predictions[other])
    )


def _report(
    setup: Setup,
    folder: RunFolder,
    fitted: Fitted,
    predictions: Mapping[str, Sequence[Prediction]],
    results: Sequence[Result],
    comparisons: Sequence[Comparison],
    metrics: Sequence[str],
    seconds: float,
    journal: Journal,
) -> Report:
    splits = setup.prepared.splits
    details = {
        **make_details(
            predictions,
            train=splits.train,
            layout_labels=setup.judged_labels,
            task=setup.judged_task,
            places={example.id: example.place for example in splits.test},
            temperature=(read_manifest(folder.model) or {}).get("temperature"),
        ),
        "recipe": folder.recipe.read_text(encoding="utf-8"),
        "derived": setup.derived,
        "steps": _thinned(read_jsonl(folder.steps)),
        "evaluations": read_jsonl(folder.evaluations),
        "card": read_json(folder.card),
        "environment": {**environment(setup.device), **describe_beside(setup.recipe)},
        "forecast_version": VERSION,
        "primary_metric": metrics[0],
    }
    cost = _cost(setup, fitted, seconds)
    details.update(short_form(
        setup.recipe, folder, predictions, setup.prepared.layout.labels,
        num_rows=len(splits.train) + len(splits.validation) + len(splits.test),
        seconds=seconds, cost=cost, today=datetime.now(UTC).date(),
    ))  # fmt: skip
    details.update(_guards(setup, folder, journal))
    verdict, because, next_steps = judge(
        results,
        comparisons,
        primary_metric=metrics[0],
        num_train=len(splits.train),
        cost=cost,
        details=details,
        failed=read_json(folder.state).get("failed_rivals", ()),
    )
    return Report(
        task=setup.task,
        base_model=setup.recipe.base_model,
        primary_metric=metrics[0],
        results=tuple(results),
        comparisons=tuple(comparisons),
        cost=cost,
        verdict=verdict,
        because=because,
        next_steps=next_steps,
        details=details,
    )


def _guards(setup: Setup, folder: RunFolder, journal: Journal) -> dict[str, Any]:
    """What was found about overfitting, memorised rows and the judge, for the report."""
    gap = find_gap(read_jsonl(folder.steps), read_jsonl(folder.evaluations))
    judged = "judge" in setup.recipe.evaluation.metrics
    agreed = measure_agreement(setup.recipe.evaluation.judge, journal) if judged else None
    found = {
        "gap": None if gap is None else {"line": gap.line, **asdict(gap)},
        "canaries": read_json(folder.state).get("canaries"),
        "judge": agreed,
    }
    return {name: value for name, value in found.items() if value is not None}


def _energy(setup: Setup) -> Amount:
    """kWh by power times time beside what the processor counted; None where nothing is known."""
    device, threads = setup.device, setup.recipe.training.num_threads
    forecast = forecast_kwh(device.type, device_name(device), threads, setup.forecast.seconds)
    now, before = read_energy_j(), setup.energy_start_j
    drawn = now - before if now is not None and before is not None else -1.0
    # A counter that ran over began again at zero.
    return Amount(forecast, drawn / 3.6e6 if device.type == "cpu" and drawn > 0 else None)


def _cost(setup: Setup, fitted: Fitted, seconds: float) -> Cost:
    return Cost(
        seconds=Amount(setup.forecast.seconds, seconds),
        tokens=Amount(setup.forecast.tokens, float(fitted.tokens)),
        energy_kwh=_energy(setup),
        # Above the libraries that were just imported, and up to the end of training: rivals that
        # are asked afterwards are not what the forecast speaks of.
        peak_memory_bytes=Amount(
            setup.forecast.peak_memory_bytes,
            float(max(0, fitted.peak_memory_bytes - setup.baseline_memory_bytes)),
        ),
    )


def _thinned(rows: Sequence[Any], most: int = 1000) -> list[Any]:
    """At most `most` rows, evenly spaced, the last one kept: enough for a curve."""
    stride = -(-len(rows) // most) or 1
    kept = list(rows[::stride])
    return kept if not rows or kept[-1] == rows[-1] else [*kept, rows[-1]]


def environment(device: torch.device) -> dict[str, str]:
    """Versions and hardware, for the report."""
    names = ("tunewright", "torch", "transformers", "peft", "datasets", "scikit-learn")
    return {
        **{name: version(name) for name in names},
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": device_name(device),
        "threads": str(torch.get_num_threads()),
    }
