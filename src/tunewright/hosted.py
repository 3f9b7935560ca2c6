"""A run whose training happens elsewhere: the same story, the same report, another workshop.

Rows are checked and priced before anything is sent; the job carries our key, which stands in the
run folder before the job is made, so that a process that dies never makes a second one.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunewright.config import Recipe
from tunewright.errors import DataError, ProviderError, Refusal, UserError
from tunewright.hosted_asking import open_provider
from tunewright.hosted_cost import Consent, HostedForecast
from tunewright.hosted_job import follow, forget, order_job
from tunewright.hosted_report import answer_test, make_report
from tunewright.hosted_rivals import runs_beside
from tunewright.hosted_run import HostedRun, choose_metrics
from tunewright.journal import Journal
from tunewright.learning import check_preferences
from tunewright.outlook import shortest_outlook
from tunewright.pipeline import begin_run, note_state
from tunewright.preparing import prepare_for_training
from tunewright.price_desk import Ask, prices_of
from tunewright.providers.provider import Job, Provider
from tunewright.records import Report
from tunewright.report.files import read_report, write_report
from tunewright.store import RunFolder, open_run, owning_run, read_json


def train_hosted(
    recipe: Recipe,
    run_dir: Path,
    journal: Journal,
    *,
    resume: bool = False,
    consent: Consent,
    ask: Ask | None = None,
    provider: Provider | None = None,
) -> Report:
    """Tune a model at the recipe's provider; leaves the run folder of DESIGN.md section 4 and
    job.json in place of model/.

    consent: asked before money is spent, unless budget.usd allows it. ask: asks a person for a
    missing price. Raises ProviderError, DataError, RecipeError for what the user can mend, Refusal
    when it costs too much, Interrupted when it can go on later.
    """
    folder = open_run(run_dir, resume=resume)
    journal.log_file = folder.log
    if resume:
        journal.recall()
    with owning_run(folder):
        recipe, _ = begin_run(folder, recipe, resume, time.time())
        if resume and folder.report_json.exists():
            journal.say(f"{folder.path}: finished already; nothing left to do")
            return read_report(folder.report_json)
        run = _prepare(recipe, folder, journal, provider, resume=resume)
        try:
            order_job(run, consent, ask)
            note_state(folder, stage="training")
            job = follow(run)
            note_state(folder, stage="evaluating")
            predictions, spent = answer_test(run, job)
        except ProviderError as error:
            raise _with_way_on(error, run) from None
        report = make_report(run, job, predictions, spent)
        write_report(folder, report)
        note_state(folder, stage="finished")
        return report


def _with_way_on(error: ProviderError, run: HostedRun) -> ProviderError:
    """The refusal with what goes on afterwards, where a run was begun and its job has not ended."""
    noted = run.noted()
    if not noted.get("key") or noted.get("phase") in ("failed", "cancelled"):
        return error
    return ProviderError(f"{error}; --resume with --run-dir {run.folder.path} goes on from here")


def cancel_hosted(recipe: Recipe, run_dir: Path) -> Job:
    """Stop the job of a run. Raises ProviderError without one, or when it is refused."""
    folder = open_run(run_dir, resume=True)
    noted = read_json(folder.job) if folder.job.exists() else {}
    provider = open_provider(recipe.provider, recipe.hosted)
    job = noted.get("id")
    if not job and noted.get("key"):  # our process may have died just after it was made
        found = provider.find_job(str(noted["key"]))
        job = found.id if found else None
    if not job:
        raise ProviderError(f"{run_dir}: no job was made; nothing to cancel")
    return provider.cancel(job)


def forecast_run(
    recipe: Recipe, journal: Journal, *, ask: Ask | None = None, provider: Provider | None = None
) -> tuple[HostedForecast, dict[str, Any] | None]:
    """(what a hosted run will cost, the short form of `benefit`); checks rows, sends nothing."""
    prepared = prepare_for_training(recipe, journal)
    run = HostedRun.make(recipe, RunFolder(Path()), journal, prepared, provider)
    run.lines()  # made to be checked
    forecast, today = run.forecast(ask), datetime.now(UTC).date()
    splits = prepared.splits
    worth = shortest_outlook(
        run.recipe,
        num_rows=len(splits.train) + len(splits.validation) + len(splits.test),
        train_usd=forecast.usd,
        train_hours=0.0,
        prices=prices_of(run.recipe, today),
        today=today,
    )
    return forecast, worth


def _prepare(
    recipe: Recipe, folder: RunFolder, journal: Journal, provider: Provider | None, *, resume: bool
) -> HostedRun:
    """Everything before money is spent. A run that fails here leaves its folder as it was."""
    try:
        prepared = prepare_for_training(recipe, journal)
        check_preferences(recipe, prepared)
        choose_metrics(recipe, prepared)
        run = HostedRun.make(recipe, folder, journal, prepared, provider)
        if not run.test:
            raise DataError("data.test: no rows to judge on; give it a share or a file")
        runs_beside(recipe, run.test)  # other rows are told before a job is paid
        return run
    except (UserError, Refusal):
        if not resume:
            forget(folder)
        raise
