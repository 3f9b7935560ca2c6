"""Who works on which job: leases with a fence, so that a job has one worker at a time.

A worker takes a job for some seconds and says again and again that it is still there. One that
falls silent loses the job, and whoever takes it next gets a higher fence. Every write of a worker
carries its fence and is refused once that is no longer the job's: a process that was stopped and
goes on hours later can change nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, func, insert, or_, select, update

from tunewright.database.engine import Database
from tunewright.database.tables import CHECKPOINTS, FILES, JOBS
from tunewright.errors import TunewrightError
from tunewright.jobs.board import add_event
from tunewright.jobs.models import add_model
from tunewright.jobs.paging import Record, new_id
from tunewright.jobs.webhooks import announce

CANDIDATES = 50
WORKED_ON = ("validating_files", "queued", "running")


class LeaseLostError(TunewrightError):
    """Another worker has this job, or it was cancelled or paused."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on a job."""

    job_id: str
    owner: str
    fence: int


def claim(
    database: Database,
    owner: str,
    lease_s: float,
    choose: Callable[[Sequence[Record]], tuple[Record | None, Mapping[str, str]]],
    *,
    now: float | None = None,
) -> tuple[Record, Lease] | None:
    """Take a job that nobody works on; None when there is none that may start now.

    choose: gets the candidates, the most urgent first, and returns the one to take, and why others
    must wait (by id).
    """
    now = time.time() if now is None else now
    free = and_(
        JOBS.c.status.in_(WORKED_ON),
        or_(JOBS.c.lease_until.is_(None), JOBS.c.lease_until < now),
        JOBS.c.not_before <= now,
    )
    with database.reading() as connection:
        if connection.execute(select(JOBS.c.number).where(free).limit(1)).first() is None:
            return None
    with database.writing() as connection:
        query = (
            select(JOBS)
            .where(free)
            .order_by(JOBS.c.priority.desc(), JOBS.c.number)
            .limit(CANDIDATES)
            .with_for_update(skip_locked=True)
        )
        rows = [dict(row) for row in connection.execute(query).mappings()]
        chosen, waits = choose(rows)
        for row in rows:
            reason = waits.get(row["id"])
            if reason is not None and reason != row["waits_for"]:
                _update(connection, row["id"], waits_for=reason)
                add_event(connection, row["id"], f"Waiting: {reason}")
        if chosen is None:
            return None
        fence = int(chosen["fence"]) + 1
        taken = {
            "lease_owner": owner, "lease_until": now + lease_s, "fence": fence,
            "attempts": chosen["attempts"] + 1, "waits_for": None,
        }  # fmt: skip
        _update(connection, chosen["id"], **taken)
        return {**chosen, **taken}, Lease(chosen["id"], owner, fence)


def heartbeat(database: Database, lease: Lease, lease_s: float, now: float | None = None) -> None:
    """Say that the worker is still there. Raises LeaseLostError."""
    now = time.time() if now is None else now
    with holding(database, lease) as connection:
        _update(connection, lease.job_id, lease_until=now + lease_s)


@contextmanager
def holding(database: Database, lease: Lease) -> Iterator[Connection]:
    """A transaction that is only committed while the lease is held. Raises LeaseLostError."""
    with database.writing() as connection:
        held = connection.execute(
            update(JOBS)
            .where(
                JOBS.c.id == lease.job_id,
                JOBS.c.fence == lease.fence,
                JOBS.c.lease_owner == lease.owner,
            )
            .values(fence=JOBS.c.fence)
        )
        if held.rowcount != 1:
            raise LeaseLostError(f"{lease.job_id}: no longer this worker's")
        yield connection


def note_prepared(
    database: Database,
    lease: Lease,
    *,
    hyperparameters: Mapping[str, Any],
    forecast: Mapping[str, Any],
    memory_bytes: int,
    total_steps: int,
    warnings: Sequence[str],
) -> None:
    """The files are sound: the job goes to the queue of training, its lease given back."""
    with holding(database, lease) as connection:
        for text in warnings:
            add_event(connection, lease.job_id, text, level="warn")
        add_event(connection, lease.job_id, "Files validated, moving job to queued state")
        _give_back(
            connection, lease, status="queued", prepared=True, forecast=dict(forecast), crashes=0,
            hyperparameters=dict(hyperparameters), memory_bytes=memory_bytes,
            total_steps=total_steps,
        )  # fmt: skip


def note_started(database: Database, lease: Lease, *, resumed: bool, seconds: float | None) -> None:
    """Training begins, or goes on."""
    now = int(time.time())
    with holding(database, lease) as connection:
        text = "Fine-tuning job resumed from its last checkpoint" if resumed else (
            "Fine-tuning job started"
        )  # fmt: skip
        add_event(connection, lease.job_id, text)
        finish = None if seconds is None else now + int(seconds)
        values = {"status": "running", "estimated_finish": finish}
        _update(
            connection, lease.job_id, **values, started_at=func.coalesce(JOBS.c.started_at, now)
        )


def note_progress(
    database: Database,
    lease: Lease,
    *,
    events: Sequence[tuple[str, Mapping[str, Any] | None]],
    last_step: int,
    tokens: int | None,
    finish: int | None,
) -> None:
    """Steps that were taken; a step that is told already is not told again."""
    with holding(database, lease) as connection:
        for message, data in events:
            add_event(connection, lease.job_id, message, data=data)
        values = {"last_step": last_step, "crashes": 0}
        if tokens is not None:
            values["trained_tokens"] = tokens
        if finish is not None:
            values["estimated_finish"] = finish
        _update(connection, lease.job_id, **values)


def note_succeeded(
    database: Database,
    lease: Lease,
    job: Record,
    *,
    folder: str,
    checkpoints: Sequence[Mapping[str, Any]],
    result_file: Mapping[str, Any],
    trained_tokens: int,
    outcome: Mapping[str, Any],
) -> None:
    """Everything that a finished job leaves, in one transaction.

    checkpoints: step, folder, metrics of each. folder: of the final model. Both below jobs/.
    """
    name, now = str(job["tuned_name"]), int(time.time())
    with holding(database, lease) as connection:
        connection.execute(insert(FILES).values(dict(result_file)))
        add_model(
            connection, name, job_id=lease.job_id, owner=job["owner"], folder=folder, step=None
        )
        for item in checkpoints:
            model = f"{name}:ckpt-step-{item['step']}"
            connection.execute(
                insert(CHECKPOINTS).values(
                    id=new_id("ftckpt_"), job_id=lease.job_id, step=item["step"], created_at=now,
                    model=model, metrics=dict(item["metrics"]),
                )
            )  # fmt: skip
            add_model(
                connection, model, job_id=lease.job_id, owner=job["owner"],
                folder=str(item["folder"]), step=item["step"],
            )  # fmt: skip
            text = f"Checkpoint created at step {item['step']}"
            add_event(connection, lease.job_id, text, data=item["metrics"])
        if outcome.get("verdict"):
            because = " ".join(outcome.get("because") or ())
            level = "info" if outcome["verdict"] == "ship" else "warn"
            text = f"Verdict: {outcome['verdict']}. {because}"
            add_event(connection, lease.job_id, text, level=level)
        add_event(connection, lease.job_id, f"New fine-tuned model created: {name}")
        add_event(connection, lease.job_id, "The job has successfully completed")
        _give_back(
            connection, lease, status="succeeded", finished_at=now, fine_tuned_model=name,
            estimated_finish=None, trained_tokens=trained_tokens, outcome=dict(outcome),
            result_files=[result_file["id"]],
        )  # fmt: skip
        announce(connection, "fine_tuning.job.succeeded", lease.job_id)


def note_failed(
    database: Database, lease: Lease, *, code: str, message: str, param: str | None = None
) -> None:
    """The job has failed for good."""
    with holding(database, lease) as connection:
        error = {"code": code, "message": message, "param": param}
        add_event(connection, lease.job_id, f"The job failed: {message}", level="error")
        _give_back(
            connection, lease, status="failed", finished_at=int(time.time()), error=error,
            estimated_finish=None,
        )  # fmt: skip
        announce(connection, "fine_tuning.job.failed", lease.job_id)


def give_back(
    database: Database,
    lease: Lease,
    *,
    why: str | None = None,
    crashed: bool = False,
    wait_s: float = 0.0,
) -> None:
    """Put a job that is not finished back into the queue, for `wait_s` from now on."""
    with holding(database, lease) as connection:
        if why is not None:
            add_event(connection, lease.job_id, why, level="warn")
        values: dict[str, Any] = {"not_before": time.time() + wait_s}
        if crashed:
            values["crashes"] = JOBS.c.crashes + 1
        _give_back(connection, lease, **values)


def running(database: Database) -> list[Record]:
    """Jobs that some worker holds just now."""
    with database.reading() as connection:
        held = (JOBS.c.status.in_(WORKED_ON), JOBS.c.lease_until >= time.time())
        return [dict(row) for row in connection.execute(select(JOBS).where(*held)).mappings()]


def _give_back(connection: Connection, lease: Lease, **values: Any) -> None:
    # The fence stays: the next claim raises it.
    _update(connection, lease.job_id, lease_owner=None, lease_until=None, **values)


def _update(connection: Connection, job_id: str, **values: Any) -> None:
    connection.execute(update(JOBS).where(JOBS.c.id == job_id).values(values))
