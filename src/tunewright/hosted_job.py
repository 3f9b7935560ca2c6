"""The job of a hosted run: priced, agreed to, made once, followed to its end.

Our key stands in the run folder before the job is made, so that a process that dies never makes a
second one.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any

from tunewright.checking import make_full_card
from tunewright.config import dump_recipe
from tunewright.data.prepare import Prepared
from tunewright.errors import DataError, Interrupted, ProviderError, Refusal, UserError
from tunewright.hosted_asking import answer_limit
from tunewright.hosted_cost import Consent, forecast_document, get_consent
from tunewright.hosted_run import HostedRun
from tunewright.price_desk import Ask, keep_asked
from tunewright.providers.provider import FINAL, Event, Job
from tunewright.providers.rows import named_row
from tunewright.store import RunFolder, append_jsonl, read_jsonl, write_atomic, write_json

PHASE_WORDS = {"waiting": "waiting its turn", "running": "training", "paused": "paused there"}


def order_job(run: HostedRun, consent: Consent, ask: Ask | None) -> None:
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
            keep_asked(forecast.asked, run.folder)
            key = secrets.token_hex(12)
            run.note(
                key=key, provider=run.provider.name, model=run.recipe.base_model,
                created=time.time(), forecast=forecast_document(forecast),
                max_tokens=answer_limit(run.recipe, run.train),
                wording={"task": run.how.task, "labels": run.how.labels,
                         "multi_label": run.how.multi_label},
            )  # fmt: skip
    except (UserError, Refusal):
        if not noted.get("key"):
            forget(run.folder)
        raise
    write_atomic(run.folder.recipe, dump_recipe(run.recipe))
    write_json(run.folder.card, _card(run.prepared))
    key = str(run.noted()["key"])
    files = _upload(run, lines, key)
    with run.journal.progress("making the job", 1.0):
        job = run.provider.create(run.order(files, key))
    run.note(id=job.id, phase=job.phase)
    run.journal.say(f"job {job.id} at {run.provider.name}")


def forget(folder: RunFolder) -> None:
    """Leave the folder as it was before a run that came to nothing."""
    for path in (folder.recipe, folder.state, folder.log, folder.job):
        path.unlink(missing_ok=True)


def _upload(run: HostedRun, lines: tuple[list[str], list[str]], key: str) -> tuple[str, str | None]:
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


def follow(run: HostedRun) -> Job:
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


def _stopped(run: HostedRun, key: str) -> str:
    if run.recipe.hosted.cancel_on_interrupt:
        job = run.provider.cancel(key)
        run.note(phase=job.phase)
        return f"stopped; job {key} at {run.provider.name} is {job.phase}"
    return f"stopped watching; job {key} goes on at {run.provider.name} (--cancel ends it)"


def _failure(run: HostedRun, job: Job) -> UserError:
    """Why the job failed; a blamed row by its file and line."""
    error = job.error or "it gives no reason"
    blamed = run.validation if job.error_file == "validation" else run.train
    place = named_row(error, [example.place for example in blamed])
    start = f"{place}: " if place else ""
    text = f"{start}{run.provider.name} failed job {job.id}: {error}"
    remedy = "mend the row" if place else "mend what it names"
    return DataError(f"{text}; {remedy} and start a new run, in this one no job is made again")


def _take_events(run: HostedRun, job: str, seen: str) -> str:
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


def _log_step(run: HostedRun, event: Event, step: int) -> None:
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


def _share(run: HostedRun, job: Job) -> float:
    """How far the job is, from 0 to 1, as far as it tells."""
    if job.phase in FINAL:
        return 1.0
    return 0.0 if job.share_done is None else job.share_done
