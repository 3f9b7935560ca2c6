"""Requests that come twice: by their Idempotency-Key, or by the retries of clients that send none.

OpenAI's Python client sends a POST again when the reply was lost, and all that tells is
x-stainless-retry-count: 1. Such a request with the same body as one of the last 15 minutes gets
that one's answer. Kept in the same transaction as what the request made.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select

from tunewright.database.engine import Database
from tunewright.database.tables import REQUESTS

WINDOW_S = 15 * 60
KEY_WINDOW_S = 24 * 3600


class KeyReusedError(ValueError):
    """An Idempotency-Key came again with another body."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is known of a request. body_sha256: of its bytes. is_retry: the client says so."""

    owner: str
    route: str
    body_sha256: str
    key: str | None = None
    is_retry: bool = False


def find_earlier(database: Database, connection: Connection, request: Request) -> str | None:
    """Id of what an earlier sending of the same request made; None for a new one.

    Within the transaction that would make it; others with the same body wait until that has ended.
    Raises KeyReusedError.
    """
    database.lock(
        connection, f"{request.owner}:{request.route}:{request.key or request.body_sha256}"
    )
    same = (REQUESTS.c.owner == request.owner, REQUESTS.c.route == request.route)
    newest = REQUESTS.c.number.desc()
    if request.key is not None:
        query = select(REQUESTS).where(*same, REQUESTS.c.key == request.key)
        row = connection.execute(query).mappings().first()
        if row is not None and row["body_sha256"] != request.body_sha256:
            raise KeyReusedError("This Idempotency-Key was used with another request.")
    elif request.is_retry:
        since = time.time() - WINDOW_S
        alike = (REQUESTS.c.body_sha256 == request.body_sha256, REQUESTS.c.created_at >= since)
        query = select(REQUESTS).where(*same, *alike).order_by(newest).limit(1)
        row = connection.execute(query).mappings().first()
    else:
        return None
    return None if row is None else str(row["made_id"])


def note_made(connection: Connection, request: Request, made_id: str) -> None:
    """Remember what a request made."""
    row = {
        "owner": request.owner, "route": request.route, "key": request.key,
        "body_sha256": request.body_sha256, "made_id": made_id, "created_at": time.time(),
    }  # fmt: skip
    connection.execute(insert(REQUESTS), row)


def forget_old(database: Database) -> None:
    """Forget requests that are too old to come again."""
    old = REQUESTS.c.created_at < time.time() - KEY_WINDOW_S
    with database.reading() as connection:
        if connection.execute(select(REQUESTS.c.number).where(old).limit(1)).first() is None:
            return
    with database.writing() as connection:
        connection.execute(delete(REQUESTS).where(old))
