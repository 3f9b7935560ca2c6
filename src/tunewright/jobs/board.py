"""The board of jobs: what clients ask of it. Who works on them is the business of leases.py.

    validating_files -> queued -> running -> succeeded | failed | cancelled
                          ^         |
                          +- paused +       (a paused job keeps its checkpoints)

A change of state raises the job's fence, so that a worker which has not heard of it writes no more.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, exists, func, insert, select, update

from tunewright.database.engine import Database
from tunewright.database.tables import (
    CHECKPOINTS,
    EVENTS,
    JOB_METADATA,
    JOBS,
    PERMISSIONS,
)
from tunewright.jobs.paging import Page, Record, find, find_by_id, new_id, owned, read_page
from tunewright.jobs.webhooks import announce

OPEN = ("validating_files", "queued", "running", "paused")
ENDED = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Wish:
    """A job as it was asked for, already checked. base_model: the local one."""

    model: str
    base_model: str
    training_file: str
    validation_file: str | None
    method: str
    hyperparameters: Mapping[str, Any]
    suffix: str | None
    seed: int
    metadata: Mapping[str, str] | None
    integrations: Sequence[Mapping[str, Any]] | None
    organization: str
    priority: int = 0
    owner: str = ""
    method_options: Mapping[str, Any] | None = None
    key_id: str = ""


class WrongStateError(ValueError):
    """The job is in a state in which this cannot be done."""


def add_job(connection: Connection, wish: Wish) -> str:
    """Put a job on the board, within a transaction; returns its id."""
    job_id, now = new_id("ftjob-"), int(time.time())
    base = wish.model.removeprefix("ft:").partition(":")[0].replace("/", "-")
    name = f"ft:{base}:{wish.organization}:{wish.suffix or ''}:{new_id('', 8)}"
    words = (
        f"Created fine-tuning job: {job_id}",
        f"Validating training file: {wish.training_file}",
    )
    row = {
        "id": job_id,
        "owner": wish.owner,
        "status": "validating_files",
        "model": wish.model,
        "base_model": wish.base_model,
        "tuned_name": name,
        "training_file": wish.training_file,
        "validation_file": wish.validation_file,
        "method": wish.method,
        "method_options": None if wish.method_options is None else dict(wish.method_options),
        "key_id": wish.key_id,
        "hyperparameters": dict(wish.hyperparameters),
        "suffix": wish.suffix,
        "seed": wish.seed,
        "integrations": None if wish.integrations is None else list(wish.integrations),
        "metadata": None if wish.metadata is None else dict(wish.metadata),
        "created_at": now,
        "result_files": [],
        "priority": wish.priority,
        "prepared": False,
        "num_events": len(words),
    }
    connection.execute(insert(JOBS), row)
    if wish.metadata:
        pairs = [{"job_id": job_id, "key": k, "value": v} for k, v in wish.metadata.items()]
        connection.execute(insert(JOB_METADATA), pairs)
    events = [_event(job_id, place, text) for place, text in enumerate(words, 1)]
    connection.execute(insert(EVENTS), events)
    return job_id


def get_job(database: Database, job_id: str, *, owner: str | None = None) -> Record:
    """One job. Raises KeyError."""
    with database.reading() as connection:
        return _job(connection, job_id, owner)


def list_jobs(
    database: Database,
    *,
    owner: str | None = None,
    metadata: Mapping[str, str] | None = None,
    without_metadata: bool = False,
    statuses: Sequence[str] = (),
    after: str | None = None,
    limit: int = 20,
) -> Page:
    """A page of jobs, the newest first. Raises UnknownCursor."""
    conditions = owned(JOBS, owner)
    for key, value in (metadata or {}).items():
        conditions.append(_has_metadata(JOB_METADATA.c.key == key, JOB_METADATA.c.value == value))
    if without_metadata:
        conditions.append(~_has_metadata())
    if statuses:
        conditions.append(JOBS.c.status.in_(statuses))
    with database.reading() as connection:
        return read_page(connection, JOBS, conditions, after=after, limit=limit)


def count_jobs(database: Database) -> tuple[dict[str, int], int | None]:
    """(jobs by status, every status named; when the oldest that waits to run was made)."""
    counts = dict.fromkeys((*OPEN, *ENDED), 0)
    by_status = select(JOBS.c.status, func.count()).group_by(JOBS.c.status)
    waiting = select(func.min(JOBS.c.created_at)).where(JOBS.c.status.in_(OPEN[:2]))
    with database.reading() as connection:
        counts.update({str(status): int(n) for status, n in connection.execute(by_status)})
        oldest = connection.execute(waiting).scalar()
    return counts, oldest


def cancel_job(database: Database, job_id: str, *, owner: str | None = None) -> Record:
    """End a job; whoever works on it stops within seconds. Raises KeyError, WrongStateError."""
    with database.writing() as connection:
        job = _change(connection, job_id, owner, "cancel", OPEN)
        _set(connection, job_id, status="cancelled", finished_at=int(time.time()))
        add_event(connection, job_id, "Fine-tuning job cancelled")
        announce(connection, "fine_tuning.job.cancelled", job_id)
        return {**job, **_job(connection, job_id, None)}


def pause_job(database: Database, job_id: str, *, owner: str | None = None) -> Record:
    """Stop a job at a checkpoint until `resume_job`. Raises KeyError, WrongStateError."""
    with database.writing() as connection:
        _change(connection, job_id, owner, "pause", ("validating_files", "queued", "running"))
        _set(connection, job_id, status="paused", waits_for=None)
        add_event(connection, job_id, "Fine-tuning job paused")
        return _job(connection, job_id, None)


def resume_job(database: Database, job_id: str, *, owner: str | None = None) -> Record:
    """Queue a paused job again. Raises KeyError, WrongStateError."""
    with database.writing() as connection:
        job = _change(connection, job_id, owner, "resume", ("paused",))
        status = "queued" if job["prepared"] else "validating_files"
        _set(connection, job_id, status=status, not_before=0.0)
        add_event(connection, job_id, "Fine-tuning job resumed")
        return _job(connection, job_id, None)


def list_events(
    database: Database,
    job_id: str,
    *,
    after: str | None = None,
    limit: int = 20,
    newest_first: bool = True,
) -> Page:
    """A page of a job's events, the newest first. Raises UnknownCursor."""
    with database.reading() as connection:
        return read_page(
            connection, EVENTS, [EVENTS.c.job_id == job_id], after=after, limit=limit,
            newest_first=newest_first,
        )  # fmt: skip


def list_checkpoints(
    database: Database, job_id: str, *, after: str | None = None, limit: int = 10
) -> Page:
    """A page of a job's checkpoints, the newest first. Raises UnknownCursor."""
    with database.reading() as connection:
        of_job = [CHECKPOINTS.c.job_id == job_id]
        return read_page(connection, CHECKPOINTS, of_job, after=after, limit=limit)


def add_permissions(database: Database, model: str, projects: Sequence[str]) -> list[Record]:
    """Let projects use a checkpoint; returns the new rows, and those that were there."""
    rows = []
    with database.writing() as connection:
        for project in projects:
            same = (PERMISSIONS.c.model == model, PERMISSIONS.c.project_id == project)
            if find(connection, PERMISSIONS, *same) is None:
                values = {"id": new_id("cp_"), "model": model, "project_id": project}
                connection.execute(
                    insert(PERMISSIONS).values(**values, created_at=int(time.time()))
                )
            row = find(connection, PERMISSIONS, *same)
            assert row is not None
            rows.append(row)
    return rows


def list_permissions(
    database: Database,
    model: str,
    *,
    project: str | None = None,
    after: str | None = None,
    limit: int = 10,
    newest_first: bool = True,
) -> Page:
    """A page of a checkpoint's permissions. Raises UnknownCursor."""
    conditions = [PERMISSIONS.c.model == model]
    if project is not None:
        conditions.append(PERMISSIONS.c.project_id == project)
    with database.reading() as connection:
        return read_page(
            connection, PERMISSIONS, conditions, after=after, limit=limit, newest_first=newest_first
        )


def drop_permission(database: Database, model: str, permission_id: str) -> None:
    """Take a permission back. Raises KeyError."""
    with database.writing() as connection:
        gone = connection.execute(
            PERMISSIONS.delete().where(
                PERMISSIONS.c.model == model, PERMISSIONS.c.id == permission_id
            )
        )
    if not gone.rowcount:
        raise KeyError(permission_id)


def add_event(
    connection: Connection,
    job_id: str,
    message: str,
    *,
    level: str = "info",
    data: Mapping[str, Any] | None = None,
) -> None:
    """Add to a job's events, within a transaction. data: metrics, where it is an event of those."""
    place = connection.execute(
        update(JOBS)
        .where(JOBS.c.id == job_id)
        .values(num_events=JOBS.c.num_events + 1)
        .returning(JOBS.c.num_events)
    ).scalar_one()
    connection.execute(insert(EVENTS), _event(job_id, place, message, level=level, data=data))


def _event(
    job_id: str,
    place: int,
    message: str,
    *,
    level: str = "info",
    data: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "id": new_id("ftevent-"),
        "job_id": job_id,
        "place": place,
        "created_at": int(time.time()),
        "level": level,
        "message": message[:4000],
        "type": "message" if data is None else "metrics",
        "data": None if data is None else dict(data),
    }


def _job(connection: Connection, job_id: str, owner: str | None) -> Record:
    row = find_by_id(connection, JOBS, job_id, owner)
    if row is None:
        raise KeyError(job_id)
    return row


def _change(
    connection: Connection, job_id: str, owner: str | None, what: str, states: Sequence[str]
) -> Record:
    """The job with its row locked, in one of these states."""
    connection.execute(
        update(JOBS).where(JOBS.c.id == job_id, *owned(JOBS, owner)).values(fence=JOBS.c.fence)
    )
    job = _job(connection, job_id, owner)
    if job["status"] not in states:
        raise WrongStateError(f"Job {job_id} is {job['status']}: there is nothing to {what}.")
    return job


def _set(connection: Connection, job_id: str, **values: Any) -> None:
    connection.execute(
        update(JOBS)
        .where(JOBS.c.id == job_id)
        .values(fence=JOBS.c.fence + 1, lease_owner=None, lease_until=None, **values)
    )


def _has_metadata(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists(
        select(JOB_METADATA.c.job_id).where(JOB_METADATA.c.job_id == JOBS.c.id, *conditions)
    )
