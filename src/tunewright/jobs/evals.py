"""Evals, their runs and items in the database: OpenAI's Evals API as far as local models need it.

A run is worked on by one server at a time. Each write of results carries the server's name and is
refused once the run was cancelled, deleted, or taken by another after a minute of silence; what is
written stays, so whoever takes the run goes on with the rows that are left.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import and_, delete, insert, or_, select, update

from tunewright.database.engine import Database
from tunewright.database.tables import EVAL_ITEMS, EVAL_RUNS, EVALS
from tunewright.errors import TunewrightError
from tunewright.jobs.paging import Page, Record, find, new_id, owned, read_page

OPEN = ("queued", "in_progress")
SILENCE_S = 60.0
NO_COUNTS = {"total": 0, "errored": 0, "failed": 0, "passed": 0}
PASSED, FAILED, ERRORED = "pass", "fail", "error"
_COUNTED = {PASSED: "passed", FAILED: "failed", ERRORED: "errored"}


class RunLostError(TunewrightError):
    """The run was cancelled or deleted, or another server has it."""


class RunEndedError(ValueError):
    """The run has ended already."""


def add_eval(
    database: Database,
    *,
    name: str,
    source: Mapping[str, Any],
    criteria: Sequence[Mapping[str, Any]],
    metadata: Mapping[str, str] | None,
    owner: str = "",
) -> Record:
    """Enter an eval. source: its data_source_config. criteria: checked graders."""
    now = int(time.time())
    row = {
        "id": new_id("eval_"), "owner": owner, "name": name, "source": dict(source),
        "criteria": [dict(item) for item in criteria],
        "metadata": None if metadata is None else dict(metadata),
        "created_at": now, "updated_at": now,
    }  # fmt: skip
    with database.writing() as connection:
        connection.execute(insert(EVALS).values(row))
    return row


def get_eval(database: Database, eval_id: str, *, owner: str | None = None) -> Record:
    """One eval. Raises KeyError."""
    with database.reading() as connection:
        row = find(connection, EVALS, EVALS.c.id == eval_id, *owned(EVALS, owner))
    if row is None:
        raise KeyError(eval_id)
    return row


def change_eval(
    database: Database, eval_id: str, values: Mapping[str, Any], *, owner: str | None = None
) -> Record:
    """Give an eval another name or metadata. Raises KeyError."""
    with database.writing() as connection:
        connection.execute(
            update(EVALS)
            .where(EVALS.c.id == eval_id, *owned(EVALS, owner))
            .values({**values, "updated_at": int(time.time())})
        )
    return get_eval(database, eval_id, owner=owner)


def delete_eval(database: Database, eval_id: str, *, owner: str | None = None) -> None:
    """Delete an eval with all its runs. Raises KeyError."""
    with database.writing() as connection:
        gone = connection.execute(delete(EVALS).where(EVALS.c.id == eval_id, *owned(EVALS, owner)))
    if not gone.rowcount:
        raise KeyError(eval_id)


def list_evals(
    database: Database, *, owner: str | None, after: str | None, limit: int, newest_first: bool
) -> Page:
    """A page of evals by their making. Raises UnknownCursor."""
    with database.reading() as connection:
        return read_page(connection, EVALS, owned(EVALS, owner), after=after, limit=limit,
                         newest_first=newest_first)  # fmt: skip


def add_run(
    database: Database,
    eval_id: str,
    *,
    name: str,
    model: str,
    source: Mapping[str, Any],
    metadata: Mapping[str, str] | None,
    owner: str = "",
) -> Record:
    """Queue a run of an eval."""
    row = {
        "id": new_id("evalrun_"), "eval_id": eval_id, "owner": owner, "name": name,
        "status": "queued", "model": model, "source": dict(source),
        "metadata": None if metadata is None else dict(metadata), "created_at": int(time.time()),
        "counts": dict(NO_COUNTS), "usage": {},
    }  # fmt: skip
    with database.writing() as connection:
        connection.execute(insert(EVAL_RUNS).values(row))
    return get_run(database, eval_id, str(row["id"]))


def get_run(database: Database, eval_id: str, run_id: str, *, owner: str | None = None) -> Record:
    """One run. Raises KeyError."""
    mine = (EVAL_RUNS.c.id == run_id, EVAL_RUNS.c.eval_id == eval_id, *owned(EVAL_RUNS, owner))
    with database.reading() as connection:
        row = find(connection, EVAL_RUNS, *mine)
    if row is None:
        raise KeyError(run_id)
    return row


def list_runs(
    database: Database, eval_id: str, *, status: str | None, after: str | None, limit: int,
    newest_first: bool,
) -> Page:  # fmt: skip
    """A page of an eval's runs. Raises UnknownCursor."""
    conditions = [EVAL_RUNS.c.eval_id == eval_id]
    if status is not None:
        conditions.append(EVAL_RUNS.c.status == status)
    with database.reading() as connection:
        return read_page(connection, EVAL_RUNS, conditions, after=after, limit=limit,
                         newest_first=newest_first)  # fmt: skip


def cancel_run(
    database: Database, eval_id: str, run_id: str, *, owner: str | None = None
) -> Record:
    """End a run; what it found stays. Raises KeyError, RunEndedError."""
    get_run(database, eval_id, run_id, owner=owner)
    with database.writing() as connection:
        done = connection.execute(
            update(EVAL_RUNS)
            .where(EVAL_RUNS.c.id == run_id, EVAL_RUNS.c.status.in_(OPEN))
            .values(status="canceled", worker=None)
        )
    run = get_run(database, eval_id, run_id)
    if not done.rowcount:
        raise RunEndedError(f"Run {run_id} is {run['status']}: there is nothing to cancel.")
    return run


def delete_run(database: Database, eval_id: str, run_id: str, *, owner: str | None = None) -> None:
    """Delete a run and its items. Raises KeyError."""
    get_run(database, eval_id, run_id, owner=owner)
    with database.writing() as connection:
        connection.execute(delete(EVAL_RUNS).where(EVAL_RUNS.c.id == run_id))


def list_items(
    database: Database, run_id: str, *, status: str | None, after: str | None, limit: int,
    newest_first: bool,
) -> Page:  # fmt: skip
    """A page of a run's items, by the rows they came from. Raises UnknownCursor."""
    conditions = [EVAL_ITEMS.c.run_id == run_id]
    if status is not None:
        conditions.append(EVAL_ITEMS.c.status == status)
    with database.reading() as connection:
        return read_page(connection, EVAL_ITEMS, conditions, after=after, limit=limit,
                         newest_first=newest_first)  # fmt: skip


def get_item(database: Database, run_id: str, item_id: str) -> Record:
    """One item. Raises KeyError."""
    with database.reading() as connection:
        row = find(
            connection, EVAL_ITEMS, EVAL_ITEMS.c.id == item_id, EVAL_ITEMS.c.run_id == run_id
        )
    if row is None:
        raise KeyError(item_id)
    return row


def claim_run(database: Database, worker: str, *, now: float | None = None) -> Record | None:
    """Take the oldest run that nobody works on."""
    now = time.time() if now is None else now
    silent = or_(EVAL_RUNS.c.beat_at.is_(None), EVAL_RUNS.c.beat_at < now - SILENCE_S)
    free = or_(EVAL_RUNS.c.status == "queued", and_(EVAL_RUNS.c.status == "in_progress", silent))
    with database.reading() as connection:
        if connection.execute(select(EVAL_RUNS.c.number).where(free).limit(1)).first() is None:
            return None
    with database.writing() as connection:
        query = select(EVAL_RUNS).where(free).order_by(EVAL_RUNS.c.number).limit(1)
        row = connection.execute(query.with_for_update(skip_locked=True)).mappings().first()
        if row is None:
            return None
        taken = {"status": "in_progress", "worker": worker, "beat_at": now}
        connection.execute(
            update(EVAL_RUNS).where(EVAL_RUNS.c.number == row["number"]).values(taken)
        )
        return {**row, **taken}


def places_done(database: Database, run_id: str) -> set[int]:
    """Rows of a run that have their result."""
    with database.reading() as connection:
        query = select(EVAL_ITEMS.c.place).where(EVAL_ITEMS.c.run_id == run_id)
        return set(connection.execute(query).scalars())


def note_items(
    database: Database, run_id: str, worker: str, items: Sequence[Mapping[str, Any]]
) -> None:
    """Write results down, and that the worker is there. Raises RunLostError."""
    now = time.time()
    with database.writing() as connection:
        _hold(database, connection, run_id, worker, {"beat_at": now})
        rows = [{"id": new_id("outputitem_"), "run_id": run_id, "created_at": int(now), **item}
                for item in items]  # fmt: skip
        if rows:
            connection.execute(insert(EVAL_ITEMS), rows)


def finish_run(
    database: Database, run_id: str, worker: str, *, error: Mapping[str, str] | None = None
) -> None:
    """Add up what was found, and end the run. Raises RunLostError."""
    counts: dict[str, Any] = dict(NO_COUNTS)
    passed, failed = Counter[str](), Counter[str]()
    usage = dict[str, Counter[str]]()
    columns = (EVAL_ITEMS.c.status, EVAL_ITEMS.c.usage, EVAL_ITEMS.c.results)
    with database.writing() as connection:
        query = select(*columns).where(EVAL_ITEMS.c.run_id == run_id)
        for status, used, results in connection.execute(query):
            counts["total"] += 1
            counts[_COUNTED[status]] += 1
            for result in results:
                (passed if result["passed"] else failed)[result["name"]] += 1
            for model, numbers in used.items():
                usage.setdefault(model, Counter()).update(numbers)
        counts["criteria"] = {
            name: {"passed": passed[name], "failed": failed[name]}
            for name in dict.fromkeys((*passed, *failed))
        }
        values = {
            "status": "failed" if error else "completed", "worker": None, "counts": counts,
            "usage": {model: dict(numbers) for model, numbers in usage.items()},
            "error": None if error is None else dict(error),
        }  # fmt: skip
        _hold(database, connection, run_id, worker, values)


def _hold(
    database: Database, connection: Any, run_id: str, worker: str, values: Mapping[str, Any]
) -> None:
    mine = (EVAL_RUNS.c.id == run_id, EVAL_RUNS.c.worker == worker,
            EVAL_RUNS.c.status == "in_progress")  # fmt: skip
    if connection.execute(update(EVAL_RUNS).where(*mine).values(values)).rowcount != 1:
        raise RunLostError(f"{run_id}: no longer this server's")
