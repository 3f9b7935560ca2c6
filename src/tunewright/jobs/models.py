"""Tuned models that jobs left, by the names that clients ask for: ft:..., and ...:ckpt-step-N."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sqlalchemy import Connection, insert, select, update

from tunewright.database.engine import Database
from tunewright.database.tables import MODELS
from tunewright.jobs.paging import Record, find, owned


def add_model(
    connection: Connection, name: str, *, job_id: str, owner: str, folder: str, step: int | None
) -> None:
    """Offer a model, within a transaction. folder: below the server's jobs folder."""
    connection.execute(
        insert(MODELS).values(
            id=name, owner=owner, job_id=job_id, step=step, folder=folder,
            created_at=int(time.time()),
        )
    )  # fmt: skip


def list_models(database: Database, *, owner: str | None = None) -> Sequence[Record]:
    """All that are offered, the oldest first; checkpoints too."""
    with database.reading() as connection:
        query = select(MODELS).where(MODELS.c.deleted_at.is_(None), *owned(MODELS, owner))
        return [dict(row) for row in connection.execute(query.order_by(MODELS.c.number)).mappings()]


def get_model(database: Database, name: str, *, owner: str | None = None) -> Record:
    """One model that is offered. Raises KeyError."""
    conditions = (MODELS.c.id == name, MODELS.c.deleted_at.is_(None), *owned(MODELS, owner))
    with database.reading() as connection:
        row = find(connection, MODELS, *conditions)
    if row is None:
        raise KeyError(name)
    return row


def delete_model(database: Database, name: str, *, owner: str | None = None) -> None:
    """Offer a model no longer; its run folder stays. Raises KeyError."""
    with database.writing() as connection:
        gone = connection.execute(
            update(MODELS)
            .where(MODELS.c.id == name, MODELS.c.deleted_at.is_(None), *owned(MODELS, owner))
            .values(deleted_at=int(time.time()))
        )
    if not gone.rowcount:
        raise KeyError(name)
