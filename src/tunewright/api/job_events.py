"""/v1/fine_tuning/jobs/{id}/events: a page, or a stream that goes on while the job does.

Streams do not ask the database each for itself: one task looks for what is new and wakes those
whose job it concerns. A client that comes back with Last-Event-ID gets what it missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi import Request as HttpRequest
from fastapi.responses import Response, StreamingResponse
from sqlalchemy import func, select

from tunewright.api.census import caller_of
from tunewright.api.paging import asked, home_of, listing
from tunewright.api.replies import JSONResponse
from tunewright.api.state import state_of
from tunewright.api.tuning import JOBS, job_of
from tunewright.database.engine import Database
from tunewright.database.tables import EVENTS
from tunewright.database.tables import JOBS as JOB_TABLE
from tunewright.jobs import board
from tunewright.jobs.paging import Record

router = APIRouter()
LOOK_EVERY_S = 0.5
PING_EVERY_S = 15.0
PIECE = 500


class Watcher:
    """Looks for new events as long as somebody follows a job."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._woken: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._counts: dict[str, tuple[int, str]] = {}
        self._task: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def following(self, job_id: str) -> Any:
        """An asyncio.Event that is set whenever the job has news."""
        event = asyncio.Event()
        self._woken[job_id].add(event)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look())
        try:
            yield event
        finally:
            self._woken[job_id].discard(event)
            if not self._woken[job_id]:
                del self._woken[job_id]
                self._counts.pop(job_id, None)

    async def _look(self) -> None:
        while self._woken:
            with contextlib.suppress(Exception):  # a database that is away for a moment
                counts = await asyncio.to_thread(self._count, list(self._woken))
                for job_id, count in counts.items():
                    if self._counts.get(job_id) != count:
                        self._counts[job_id] = count
                        for event in self._woken.get(job_id, ()):
                            event.set()
            await asyncio.sleep(LOOK_EVERY_S)

    def _count(self, jobs: list[str]) -> dict[str, tuple[int, str]]:
        columns = (JOB_TABLE.c.id, JOB_TABLE.c.num_events, JOB_TABLE.c.status)
        found = {}
        with self.database.reading() as connection:
            for start in range(0, len(jobs), PIECE):
                query = select(*columns).where(JOB_TABLE.c.id.in_(jobs[start : start + PIECE]))
                found.update({row[0]: (row[1], row[2]) for row in connection.execute(query)})
        return found


@router.get(JOBS + "/{job_id}/events")
async def list_events(
    job_id: str,
    http: HttpRequest,
    after: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    stream: bool = False,
) -> Response:
    """Events of a job, the newest first; stream=true: server-sent events, the oldest first."""
    job = await job_of(http, job_id)
    database = home_of(http).database
    if stream:
        last = http.headers.get("last-event-id") or after
        start = await _place(database, job_id, last)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        state_of(http).limits.check_streams(caller_of(http))
        events = _stream(http, database, job["id"], start)
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)
    page = await asked(
        "event", str(after), board.list_events, database, job_id, after=after, limit=limit
    )
    return JSONResponse(listing(page, show_event))


async def _place(database: Database, job_id: str, event_id: str | None) -> int:
    """Place of the last event that the client has; 0 for none."""

    def find() -> int:
        query = select(EVENTS.c.place).where(EVENTS.c.job_id == job_id, EVENTS.c.id == event_id)
        with database.reading() as connection:
            return connection.execute(query).scalar() or 0

    return 0 if event_id is None else await asyncio.to_thread(find)


async def _stream(
    http: HttpRequest, database: Database, job_id: str, place: int
) -> AsyncIterator[str]:
    state = state_of(http)
    reads, streaming = state.reads, state.limits.streaming(caller_of(http))
    assert reads is not None
    if state.watcher is None:
        state.watcher = Watcher(database)
    with streaming, state.watcher.following(job_id) as news:
        while True:
            news.clear()
            rows, status = await reads.read(partial(_news, database, job_id, place))
            for row in rows:
                place = row["place"]
                yield f"id: {row['id']}\nevent: {row['object']}\ndata: {json.dumps(row)}\n\n"
            if not rows and status in board.ENDED:
                yield "event: done\ndata: [DONE]\n\n"
                return
            if rows:
                continue
            try:
                await asyncio.wait_for(news.wait(), PING_EVERY_S)
            except TimeoutError:
                yield ": still here\n\n"


def _news(database: Database, job_id: str, place: int) -> tuple[list[dict[str, Any]], str]:
    """Up to some hundred events after a place, and the job's status read before them."""
    with database.reading() as connection:
        status = connection.execute(
            select(func.max(JOB_TABLE.c.status)).where(JOB_TABLE.c.id == job_id)
        ).scalar()
        query = select(EVENTS).where(EVENTS.c.job_id == job_id, EVENTS.c.place > place)
        rows = connection.execute(query.order_by(EVENTS.c.place).limit(PIECE)).mappings().all()
    return [{**show_event(dict(row)), "place": row["place"]} for row in rows], str(status)


def show_event(row: Record) -> dict[str, Any]:
    """An event as clients know it."""
    keys = ("id", "created_at", "level", "message", "type", "data")
    return {**{key: row[key] for key in keys}, "object": "fine_tuning.job.event"}
