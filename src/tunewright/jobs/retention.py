"""What goes by itself after some days, as the settings say. Nothing goes unless they do.

Rows go first, in one transaction each, then the bytes: what the tables list is on disk. A job whose
model answers, or that an open job goes on from, stays.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, exists, or_, select

from tunewright.database.engine import Database
from tunewright.database.tables import CHECKPOINTS, DELIVERIES, FILES, JOBS, MODELS
from tunewright.jobs.board import OPEN
from tunewright.jobs.files import delete_file
from tunewright.jobs.folder import JobFolder
from tunewright.settings import Retention, ServerFolder

DAY_S = 86_400
AT_ONCE = 200
"""Rows of each kind in one round; the next round comes soon."""


def drop_old(
    database: Database, folder: ServerFolder, rules: Retention, *, now: float | None = None
) -> dict[str, int]:
    """Remove what the rules say; returns how many of each kind."""
    now = time.time() if now is None else now
    gone = {"files": 0, "jobs": 0, "checkpoints": 0, "deliveries": 0}
    if rules.files_days is not None:
        gone["files"] = _drop_files(database, folder, _before(now, rules.files_days))
    if rules.ended_jobs_days is not None:
        cutoff = _before(now, rules.ended_jobs_days)
        unmade = and_(JOBS.c.status.in_(("failed", "cancelled")), JOBS.c.finished_at < cutoff)
        gone["jobs"] += _drop_jobs(database, folder, unmade)
    if rules.deleted_models_days is not None:
        cutoff = _before(now, rules.deleted_models_days)
        kept = exists(
            select(MODELS.c.id).where(
                MODELS.c.job_id == JOBS.c.id,
                or_(MODELS.c.deleted_at.is_(None), MODELS.c.deleted_at >= cutoff),
            )
        )
        gone["jobs"] += _drop_jobs(database, folder, and_(JOBS.c.status == "succeeded", ~kept))
    if rules.checkpoints_days is not None:
        gone["checkpoints"] = _drop_checkpoints(
            database, folder, _before(now, rules.checkpoints_days)
        )
    old = (
        DELIVERIES.c.status.in_(("delivered", "failed", "addressed")),
        DELIVERIES.c.created_at < _before(now, rules.deliveries_days),
    )
    if _ids(database, select(DELIVERIES.c.number).where(*old)):
        with database.writing() as connection:
            gone["deliveries"] = connection.execute(delete(DELIVERIES).where(*old)).rowcount
    return gone


def _before(now: float, days: float) -> int:
    return int(now - days * DAY_S)


def _drop_files(database: Database, folder: ServerFolder, cutoff: int) -> int:
    """Files that no open job reads."""
    reads = or_(JOBS.c.training_file == FILES.c.id, JOBS.c.validation_file == FILES.c.id)
    used = exists(select(JOBS.c.id).where(JOBS.c.status.in_(OPEN), reads))
    names = _ids(database, select(FILES.c.id).where(FILES.c.created_at < cutoff, ~used))
    for name in names:
        delete_file(database, folder, name)
    return len(names)


def _drop_jobs(database: Database, folder: ServerFolder, which: ColumnElement[bool]) -> int:
    """Jobs with all that hangs on them; not those whose model an open job goes on from."""
    models = select(MODELS.c.id).where(MODELS.c.job_id == JOBS.c.id)
    others = JOBS.alias("others")
    followed = exists(
        select(others.c.id).where(others.c.status.in_(OPEN), others.c.base_model.in_(models))
    )
    names = _ids(database, select(JOBS.c.id).where(which, ~followed))
    for name in names:
        with database.writing() as connection:
            connection.execute(delete(JOBS).where(JOBS.c.id == name))
        shutil.rmtree(folder.job(name), ignore_errors=True)
    return len(names)


def _drop_checkpoints(database: Database, folder: ServerFolder, cutoff: int) -> int:
    """Models of epochs and training state of jobs that finished before; returns how many jobs."""
    kept = exists(select(CHECKPOINTS.c.id).where(CHECKPOINTS.c.job_id == JOBS.c.id))
    old = (JOBS.c.status == "succeeded", JOBS.c.finished_at < cutoff, kept)
    names = _ids(database, select(JOBS.c.id).where(*old))
    for name in names:
        with database.writing() as connection:
            connection.execute(delete(CHECKPOINTS).where(CHECKPOINTS.c.job_id == name))
            of_epochs = (MODELS.c.job_id == name, MODELS.c.step.is_not(None))
            connection.execute(delete(MODELS).where(*of_epochs))
        job = JobFolder(folder.job(name))
        for place in (job.checkpoint_models, job.run.checkpoints):
            shutil.rmtree(place, ignore_errors=True)
    return len(names)


def _ids(database: Database, query: Any) -> Sequence[Any]:
    with database.reading() as connection:
        return connection.execute(query.limit(AT_ONCE)).scalars().all()
