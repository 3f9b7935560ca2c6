"""A run whose training happens elsewhere: the same story, the same report, another workshop.

Rows are checked and priced before anything is sent; the job carries our key, which stands in the
run folder before the job is made, so that a process that dies never makes a second one.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tunewright.checking import make_full_card
from tunewright.config import Recipe, dump_recipe, with_values
from tunewright.data.prepare import Prepared
from tunewright.errors import DataError, Interrupted, ProviderError, RecipeError, Refusal, UserError
from tunewright.evaluate.compare import compare
from tunewright.evaluate.details import make_details
from tunewright.evaluate.saved import read_predictions, save_predictions
from tunewright.evaluate.score import score
from tunewright.evaluate.verdict import judge
from tunewright.hosted_asking import (
    Spent,
    answer_limit,
    ask_systems,
    choose_examples,
    open_provider,
)
from tunewright.hosted_cost import (
    Asked,
    Consent,
    HostedForecast,
    forecast_document,
    forecast_hosted,
    get_consent,
    question_usd,
    train_price,
)
from tunewright.hosted_rivals import beside_systems, check_beside, local_rivals, runs_beside
from tunewright.journal import Journal
from tunewright.learning import check_preferences
from tunewright.metrics.table import check_metrics, find_metric, lacks, metrics_for
from tunewright.outlook import shortest_outlook
from tunewright.pipeline import begin_run, note_state
from tunewright.preparing import prepare_for_training
from tunewright.providers.provider import FINAL, Event, Job, Order, Provider
from tunewright.providers.rows import (
    Wording,
    choose_epochs,
    google_line,
    make_lines,
    make_wording,
    named_row,
    openai_line,
)
from tunewright.records import Amount, Cost, Prediction, Report, Result
from tunewright.report.files import read_report, write_report
from tunewright.setup import first_by_content
from tunewright.store import (
    RunFolder,
    append_jsonl,
    open_run,
    owning_run,
    read_json,
    read_jsonl,
    write_atomic,
    write_json,
)
from tunewright.worth import Ask, PriceDesk, find_worth, is_filled, prices_of, worth_document

PHASE_WORDS = {"waiting": "waiting its turn", "running": "training", "paused": "paused there"}


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
        _order_job(run, consent, ask)
        note_state(folder, stage="training")
        job = _follow(run)
        note_state(folder, stage="evaluating")
        predictions, spent = _answer(run, job)
        report = _report(run, job, predictions, spent)
        write_report(folder, report)
        note_state(folder, stage="finished")
        return report


def cancel_hosted(recipe: Recipe, run_dir: Path) -> Job:
    """Stop the job of a run. Raises RunError without one, ProviderError when refused."""
    folder = open_run(run_dir, resume=True)
    job = read_json(folder.job).get("id")
    if not job:
        raise ProviderError(f"{run_dir}: no job was made; nothing to cancel")
    return open_provider(recipe.provider, recipe.hosted).cancel(job)


def forecast_run(
    recipe: Recipe, journal: Journal, *, ask: Ask | None = None, provider: Provider | None = None
) -> tuple[HostedForecast, dict[str, Any] | None]:
    """(what a hosted run will cost, the short form of `benefit`); checks rows, sends nothing."""
    prepared = prepare_for_training(recipe, journal)
    run = _Run.make(recipe, RunFolder(Path()), journal, prepared, provider)
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


class _Run:
    """What the stages of one hosted run share."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        journal: Journal,
        prepared: Prepared,
        provider: Provider,
        how: Wording,
    ) -> None:
        self.recipe, self.folder, self.journal = recipe, folder, journal
        self.prepared, self.provider, self.how = prepared, provider, how
        splits = prepared.splits
        most = provider.rules.max_validation_rows or None
        self.train = tuple(e for e in splits.train if e.output is not None)
        self.validation = first_by_content(splits.validation, most)
        self.test = first_by_content(splits.test, recipe.evaluation.max_rows)
        if recipe.objective == "supervised":
            self.train = tuple(replace(e, rejected=None) for e in self.train)
            self.validation = tuple(replace(e, rejected=None) for e in self.validation)
        else:
            self.train = tuple(e for e in self.train if e.rejected is not None)
            self.validation = tuple(e for e in self.validation if e.rejected is not None)
        self.started = time.time()

    @classmethod
    def make(
        cls,
        recipe: Recipe,
        folder: RunFolder,
        journal: Journal,
        prepared: Prepared,
        provider: Provider | None,
    ) -> _Run:
        """Checks task, objective and beside; opens the provider."""
        how = make_wording(prepared.layout, recipe.provider)
        provider = provider or open_provider(recipe.provider, recipe.hosted)
        if recipe.objective not in provider.rules.objectives:
            raise RecipeError(
                f"objective is {recipe.objective}; {provider.name} trains "
                f"{', '.join(provider.rules.objectives)}; choose one, or provider: here"
            )
        check_beside(recipe)
        recipe = with_values(recipe, {"task": prepared.layout.task})
        return cls(recipe, folder, journal, prepared, provider, how)

    def order(self, files: tuple[str, str | None], key: str) -> Order:
        """The job to be made."""
        training, hosted = self.recipe.training, self.recipe.hosted
        batch, multiplier = training.batch_size, hosted.learning_rate_multiplier
        return Order(
            key=key,
            model=self.recipe.base_model,
            train_file=files[0],
            validation_file=files[1],
            num_epochs=choose_epochs(len(self.train), training.num_epochs),
            objective=self.recipe.objective,
            batch_size=batch if isinstance(batch, int) else None,
            rate_multiplier=multiplier if isinstance(multiplier, float) else None,
            beta=self.recipe.preference.beta,
            seed=training.seed,
            suffix=hosted.suffix,
            rank=_rank(self.recipe, self.provider),
        )

    def lines(self) -> tuple[list[str], list[str]]:
        """Training and validation lines, every row checked. Raises DataError."""
        write = google_line if self.provider.rules.provider == "google" else openai_line
        rules = self.provider.rules
        return (
            make_lines(self.train, self.how, rules, write, "training"),
            make_lines(self.validation, self.how, rules, write, "validation"),
        )

    def systems(self, tuned: str | None) -> list[Asked]:
        """Every hosted system to be put the test questions. tuned: None before there is one."""
        recipe, base = self.recipe, self.recipe.base_model
        priced = f"ft:{base}" if self.provider.rules.provider == "openai" else base
        found = [Asked("tuned", self.provider, tuned or base, priced_as=priced)]
        wished = recipe.evaluation.baselines
        if wished == "auto" or "base" in wished:
            found.append(Asked("base", self.provider, base))
        count = recipe.evaluation.num_few_shot
        if count and (wished == "auto" or "few_shot" in wished):
            shots = choose_examples(self.train, count, recipe.training.seed)
            found.append(Asked("few_shot", self.provider, base, shots))
        return [*found, *beside_systems(recipe, self.train, self.provider)]

    def forecast(self, ask: Ask | None) -> HostedForecast:
        """Tokens and dollars beforehand. Raises MissingFigureError."""
        today = datetime.now(UTC).date()
        return forecast_hosted(
            self.order(("", None), ""), self.provider, self.train, self.systems(None), self.test,
            self.how, prices=prices_of(self.recipe, today), today=today, ask=ask,
        )  # fmt: skip

    def note(self, **values: Any) -> None:
        """Write something down in job.json."""
        write_json(self.folder.job, {**self.noted(), **values})

    def noted(self) -> dict[str, Any]:
        """What job.json holds."""
        found: dict[str, Any] = read_json(self.folder.job) if self.folder.job.exists() else {}
        return found


def _prepare(
    recipe: Recipe, folder: RunFolder, journal: Journal, provider: Provider | None, *, resume: bool
) -> _Run:
    """Everything before money is spent. A run that fails here leaves its folder as it was."""
    try:
        prepared = prepare_for_training(recipe, journal)
        check_preferences(recipe, prepared)
        choose_metrics(recipe, prepared)
        run = _Run.make(recipe, folder, journal, prepared, provider)
        if not run.test:
            raise DataError("data.test: no rows to judge on; give it a share or a file")
        runs_beside(recipe, run.test)  # other rows are told before a job is paid
        return run
    except (UserError, Refusal):
        if not resume:
            _forget(folder)
        raise


def _forget(folder: RunFolder) -> None:
    for path in (folder.recipe, folder.state, folder.log, folder.job):
        path.unlink(missing_ok=True)


def choose_metrics(recipe: Recipe, prepared: Prepared) -> tuple[str, ...]:
    """The recipe's metrics, or those of the task; the first decides. Preferences are judged by what
    is written, against the better answer: a provider does not tell what it would not have said.
    """
    layout, splits = prepared.layout, prepared.splits
    wished = recipe.evaluation.metrics
    if wished == "auto":
        return metrics_for(layout.task, splits.train + splits.test, layout.labels)
    check_metrics(wished, layout.task, layout.labels)
    return tuple(wished)


def _rank(recipe: Recipe, provider: Provider) -> int | None:
    rank, sizes = recipe.adapter.r, provider.rules.ranks
    if not isinstance(rank, int) or not sizes:
        return None
    if rank not in sizes:
        raise RecipeError(
            f"adapter.r is {rank}; {provider.name} has {', '.join(map(str, sizes))}; take one"
        )
    return rank


def _order_job(run: _Run, consent: Consent, ask: Ask | None) -> None:
    """Have a job made, once: price and consent first, our key on disk before the call."""
    noted = run.noted()
    if noted.get("id"):
        return
    try:
        lines = run.lines()
        if not noted.get("key"):
            forecast = run.forecast(ask)
            what = f"tuning {run.recipe.base_model} at {run.provider.name}, {len(run.train)} rows"
            get_consent(run.recipe, forecast, what, consent, run.journal)
            key = secrets.token_hex(12)
            run.note(
                key=key, provider=run.provider.name, model=run.recipe.base_model,
                created=time.time(), forecast=forecast_document(forecast),
            )  # fmt: skip
    except (UserError, Refusal):
        if not noted.get("key"):
            _forget(run.folder)
        raise
    write_atomic(run.folder.recipe, dump_recipe(run.recipe))
    write_json(run.folder.card, _card(run.prepared))
    key = str(run.noted()["key"])
    files = _upload(run, lines, key)
    with run.journal.progress("making the job", 1.0):
        job = run.provider.create(run.order(files, key))
    run.note(id=job.id, phase=job.phase)
    run.journal.say(f"job {job.id} at {run.provider.name}")


def _upload(run: _Run, lines: tuple[list[str], list[str]], key: str) -> tuple[str, str | None]:
    """Write what is sent into the run folder, and send it; returns what the job calls the files."""
    run.folder.upload.mkdir(exist_ok=True)
    sent: list[str | None] = []
    for name, part in zip(("train", "validation"), lines, strict=True):
        if not part:
            sent.append(None)
            continue
        path = run.folder.upload / f"{name}.jsonl"
        write_atomic(path, "\n".join(part) + "\n")
        known = run.noted().get(f"{name}_file")
        if known is None:
            with run.journal.progress(f"sending {len(part):,} {name} rows", 1.0):
                known = run.provider.upload(path, f"tunewright-{key}-{name}.jsonl")
            run.note(**{f"{name}_file": known})
        sent.append(known)
    assert sent[0] is not None
    return sent[0], sent[1]


def _card(prepared: Prepared) -> Mapping[str, Any]:
    return prepared.card if prepared.card is not None else make_full_card(prepared)


def _follow(run: _Run) -> Job:
    """Wait for the job's end. Raises DataError or ProviderError when it failed, Interrupted."""
    noted = run.noted()
    key = str(noted["id"])
    seen = str(noted.get("last_event") or "")
    job = run.provider.look(key)
    try:
        with run.journal.progress(f"job {key}", 1.0) as advance:
            while True:
                seen = _take_events(run, key, seen)
                advance(_share(run, job), PHASE_WORDS.get(job.phase, job.native))
                if job.phase in FINAL:
                    break
                time.sleep(run.recipe.hosted.poll_s)
                job = run.provider.look(key)
    except KeyboardInterrupt:
        raise Interrupted(_stopped(run, key)) from None
    run.note(phase=job.phase, tuned_model=job.model, trained_tokens=job.trained_tokens)
    if job.phase == "cancelled":
        raise ProviderError(f"{run.provider.name}: job {key} was cancelled; start a new run")
    if job.phase == "failed" or not job.model:
        raise _failure(run, job)
    run.journal.say(f"tuned: {job.model}")
    return job


def _stopped(run: _Run, key: str) -> str:
    if run.recipe.hosted.cancel_on_interrupt:
        job = run.provider.cancel(key)
        run.note(phase=job.phase)
        return f"stopped; job {key} at {run.provider.name} is {job.phase}"
    return f"stopped watching; job {key} goes on at {run.provider.name} (--cancel ends it)"


def _failure(run: _Run, job: Job) -> UserError:
    """Why the job failed; a blamed row by its file and line."""
    error = job.error or "it gives no reason"
    blamed = run.validation if job.error_file == "validation" else run.train
    place = named_row(error, [example.place for example in blamed])
    start = f"{place}: " if place else ""
    text = f"{start}{run.provider.name} failed job {job.id}: {error}"
    remedy = "mend the row" if place else "mend what it names"
    return DataError(f"{text}; {remedy} and start a new run, in this one no job is made again")


def _take_events(run: _Run, job: str, seen: str) -> str:
    """Log what is new; returns the newest event's id."""
    events = run.provider.events(job, frozenset({seen}) if seen else frozenset())
    known = {line["step"] for line in read_jsonl(run.folder.steps)} if events else set()
    for event in events:
        if event.level != "info":
            run.journal.warn(f"{run.provider.name}: {event.text}")
        elif not event.metrics:
            run.journal.say(f"{run.provider.name}: {event.text}")
        step = event.metrics.get("step")
        if step is not None and step not in known:
            _log_step(run, event, int(step))
    if not events:
        return seen
    run.note(last_event=events[-1].id)
    return events[-1].id


def _log_step(run: _Run, event: Event, step: int) -> None:
    """One line of steps.jsonl, and of evaluations.jsonl where validation was looked at."""
    told = event.metrics
    seconds = time.time() - float(run.noted().get("created", run.started))
    line = dict.fromkeys(
        ("tokens", "epoch", "learning_rate", "grad_norm", "tokens_per_s", "peak_memory_bytes")
    )
    if "train_loss" in told:
        values = {"step": step, **line, "loss": told["train_loss"], "seconds": seconds}
        append_jsonl(run.folder.steps, [values])
    loss = told.get("full_valid_loss", told.get("valid_loss"))
    if loss is not None:
        before = [row["loss"] for row in read_jsonl(run.folder.evaluations)]
        best = all(loss < other for other in before)
        values = {"step": step, "epoch": None, "value": -loss, "loss": loss,
                  "metrics": {"loss": loss}, "best": best}  # fmt: skip
        append_jsonl(run.folder.evaluations, [values])


def _share(run: _Run, job: Job) -> float:
    """How far the job is, from 0 to 1, as far as it tells."""
    if job.phase in FINAL:
        return 1.0
    return 0.0 if job.share_done is None else job.share_done


def _answer(run: _Run, job: Job) -> tuple[dict[str, list[Prediction]], dict[str, Spent]]:
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


def _report(
    run: _Run,
    job: Job,
    predictions: Mapping[str, Sequence[Prediction]],
    spent: Mapping[str, Spent],
) -> Report:
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
            "tuned model": job.model,
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


def _cost(run: _Run, job: Job, spent: Mapping[str, Spent]) -> Cost:
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


def _billed(run: _Run, trained: int | None, spent: Mapping[str, Spent]) -> float | None:
    """USD by the tokens that were billed; None where a price or a count is not known."""
    today = datetime.now(UTC).date()
    desk = PriceDesk(prices_of(run.recipe, today), today, None)
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
    run: _Run, predictions: Mapping[str, Sequence[Prediction]], cost: Cost
) -> dict[str, Any]:
    """The short form of `benefit`, once the recipe says what answers are worth."""
    recipe = run.recipe
    if not is_filled(recipe.business):
        return {}
    if recipe.business.train_usd is None:
        usd = cost.usd.measured if cost.usd.measured is not None else cost.usd.forecast
        recipe = with_values(recipe, {"business.train_usd": usd})
    splits, today = run.prepared.splits, datetime.now(UTC).date()
    try:
        worth = find_worth(
            recipe,
            {system: rows for system, rows in predictions.items() if rows},
            run.prepared.layout.labels,
            num_rows=len(splits.train) + len(splits.validation) + len(splits.test),
            train_hours=0.0,
            prices=prices_of(recipe, today),
            today=today,
        )
    except RecipeError as missing:
        return {"benefit": {"missing": str(missing)}}
    return {"benefit": worth_document(worth)}
