"""What a key may still use of what is kept in the database: jobs, hours of training, bytes.

Counted within the transaction that would use more, so that two requests at once cannot both take
what is left.
"""

from __future__ import annotations

import time

from sqlalchemy import Connection, func, or_, select

from tunewright.database.engine import Database
from tunewright.database.tables import FILES, JOBS
from tunewright.errors import TunewrightError
from tunewright.figures import show_bytes
from tunewright.jobs.board import OPEN
from tunewright.settings import Quota

DAY_S = 86_400


class QuotaSpentError(TunewrightError):
    """The key has used what it may."""


def check_jobs(database: Database, connection: Connection, key_id: str, quota: Quota) -> None:
    """Raise QuotaSpentError unless the key may make one more job now."""
    if (quota.open_jobs, quota.jobs_per_day, quota.training_hours_per_day) == (None, None, None):
        return
    database.lock(connection, f"quota {key_id}")
    mine, since = JOBS.c.key_id == key_id, int(time.time()) - DAY_S
    if quota.open_jobs is not None:
        count = _count(connection, mine, JOBS.c.status.in_(OPEN))
        _refuse(count, quota.open_jobs, "open_jobs", f"{count} jobs have not ended")
    if quota.jobs_per_day is not None:
        count = _count(connection, mine, JOBS.c.created_at > since)
        _refuse(count, quota.jobs_per_day, "jobs_per_day", f"{count} jobs in the last 24 hours")
    if quota.training_hours_per_day is not None:
        hours = _hours(connection, key_id, since)
        said = f"{hours:.2f} hours of training in the last 24"
        _refuse(hours, quota.training_hours_per_day, "training_hours_per_day", said)


def check_bytes(
    database: Database, connection: Connection, key_id: str, quota: Quota, more: int
) -> None:
    """Raise QuotaSpentError unless the key may keep so many more bytes."""
    if quota.stored_gb is None:
        return
    database.lock(connection, f"quota {key_id}")
    kept = select(func.coalesce(func.sum(FILES.c.bytes), 0)).where(FILES.c.key_id == key_id)
    used, most = int(connection.execute(kept).scalar_one()), int(quota.stored_gb * 1e9)
    if used + more > most:
        raise QuotaSpentError(
            f"quota stored_gb: {show_bytes(used)} are kept of {show_bytes(most)}, and this is "
            f"{show_bytes(more)} more; delete files"
        )


def _count(connection: Connection, *conditions: object) -> int:
    query = select(func.count()).select_from(JOBS).where(*conditions)  # type: ignore[arg-type]
    return int(connection.execute(query).scalar_one())


def _hours(connection: Connection, key_id: str, since: int) -> float:
    """Hours since then from the start of each job to its end, or to now."""
    ended = or_(JOBS.c.finished_at.is_(None), JOBS.c.finished_at > since)
    query = select(JOBS.c.started_at, JOBS.c.finished_at).where(
        JOBS.c.key_id == key_id, JOBS.c.started_at.is_not(None), ended
    )
    now = int(time.time())
    spans = [(end or now) - max(begun, since) for begun, end in connection.execute(query)]
    return float(sum(spans)) / 3600


def _refuse(used: float, most: float, name: str, said: str) -> None:
    if used >= most:
        raise QuotaSpentError(f"quota {name}: {said}, and this key may have {most:g}")
