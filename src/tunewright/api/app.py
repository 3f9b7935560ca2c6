"""The HTTP server: routes, guard, counters, in one application."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from tunewright.access import KeyRing
from tunewright.api import (
    about,
    chat,
    completions,
    decide,
    evals,
    feedback,
    files,
    graders,
    job_events,
    permissions,
    tuned_models,
    tuning,
)
from tunewright.api.census import LIMITS, check_scope
from tunewright.api.errors import (
    ApiError,
    on_api_error,
    on_database_error,
    on_http_error,
    on_invalid,
    on_own_error,
)
from tunewright.api.eval_runner import EvalRunner
from tunewright.api.guard import LOOPBACK, App, Guard, Scope
from tunewright.api.state import ANSWERED_BY, State
from tunewright.database.engine import Database
from tunewright.errors import TunewrightError
from tunewright.hosting import Hosting
from tunewright.jobs.home import Home
from tunewright.releases.live import LiveReleases
from tunewright.serve.capture import Capture
from tunewright.web import actions, live, monitoring, pages, story, tune
from tunewright.web.shell import Sessions

NUM_THREADS = 40
"""That wait for the database or the disk; they compute little."""
ROUTERS = (
    chat.router, tuning.router, job_events.router, completions.router, decide.router, files.router,
    about.router, feedback.router, graders.router, evals.router, permissions.router,
    tuned_models.router, pages.router, live.router, actions.router, tune.router, monitoring.router,
    story.router,
)  # fmt: skip
"""Looked through in this order for every request: what is asked most stands first."""


def make_app(
    hosting: Hosting,
    *,
    keys: Iterable[str] = (),
    hosts: Iterable[str] = LOOPBACK,
    deadline_s: float = 600.0,
    database: Database | None = None,
    runs: Sequence[Path] = (),
    home: Home | None = None,
    capture: Capture | None = None,
) -> App:
    """An ASGI application on these models. keys: none means that no key is asked for.

    database: of the server; without one there are no releases and no keys but the given ones.
    runs: folders that hold run folders, for the pages. home: where files and jobs are kept.
    capture: keeps traffic for `watch`; closed with the server.
    """
    releases = LiveReleases(hosting, database) if database else None
    state = State(hosting, deadline_s, releases, home, capture=capture)
    ring = KeyRing(tuple(keys), database)
    sessions = Sessions()

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(NUM_THREADS, "tunewright"))
        if releases is not None:
            await asyncio.to_thread(releases.start)
        if home is not None:
            state.evals = EvalRunner(state, home)
            state.evals.start()
        yield
        if state.evals is not None:
            await state.evals.stop()
        await state.mirror.close()
        if releases is not None:
            releases.stop()
        hosting.close()
        if capture is not None:
            await asyncio.to_thread(capture.close)

    app = FastAPI(
        title="Tunewright", lifespan=life, docs_url=None, redoc_url=None, openapi_url=None,
        dependencies=[Depends(check_scope)],
    )  # fmt: skip
    app.state.server = state
    for router in ROUTERS:
        app.include_router(router)
    app.add_exception_handler(ApiError, on_api_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(TunewrightError, on_own_error)
    app.add_exception_handler(SQLAlchemyError, on_database_error)
    app.state.keys, app.state.sessions, app.state.runs = ring, sessions, tuple(runs)
    max_file = home.settings.max_file_bytes if home else None
    guard = Guard(
        app, keys=ring, hosts=hosts, sessions=sessions.find, max_file_bytes=max_file
    )  # fmt: skip
    return _Counted(guard, state)


class _Counted:
    """ASGI middleware that counts requests and their time, by route."""

    def __init__(self, app: App, state: State) -> None:
        self.app, self.state = app, state

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), "500"

        async def watched(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
                more = list(scope.get(LIMITS, ()))
                if ANSWERED_BY in scope:
                    more.append((b"x-tunewright-release", scope[ANSWERED_BY].encode()))
                if more:
                    message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.state.requests.labels(route, status).inc()
            self.state.seconds.labels(route).observe(time.perf_counter() - started)
