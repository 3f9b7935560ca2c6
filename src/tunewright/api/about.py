"""What the server is and how it fares: models, health, metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from tunewright.api.census import caller_of
from tunewright.api.errors import no_such_model
from tunewright.api.replies import JSONResponse
from tunewright.api.state import State, state_of
from tunewright.database.engine import Database
from tunewright.hosting import Served
from tunewright.jobs.home import Home
from tunewright.jobs.models import list_models as tuned_models_of
from tunewright.jobs.offered import TUNED, may_see, offer
from tunewright.jobs.paging import Record

router = APIRouter()
READY_S = 5.0
"""The database may take so long to answer for the server to be ready."""


@router.get("/healthz")
async def healthz() -> Response:
    """The process runs."""
    return JSONResponse({"status": "ok"})


@router.get("/readyz")
async def readyz(http: HttpRequest) -> Response:
    """Requests can be answered: the database is there, where the server has one."""
    state = state_of(http)
    if state.reads is not None:
        try:
            await asyncio.wait_for(state.reads.read(partial(_ping, state.reads.database)), READY_S)
        except (SQLAlchemyError, TimeoutError) as error:
            fault = "no answer" if isinstance(error, TimeoutError) else type(error).__name__
            return JSONResponse({"status": "database", "fault": fault}, status_code=503)
    return JSONResponse({"status": "ok", "models": len(state.hosting.models)})


def _ping(database: Database) -> None:
    with database.reading() as connection:
        connection.execute(select(1))


@router.get("/metrics")
async def metrics(http: HttpRequest) -> Response:
    """Counters in Prometheus' text format."""
    text = await asyncio.to_thread(state_of(http).figures)
    return PlainTextResponse(text, headers={"Content-Type": CONTENT_TYPE_LATEST})


@router.get("/v1/models")
async def list_models(http: HttpRequest) -> Response:
    """Everything that can be asked."""
    state = state_of(http)
    if state.home is not None:
        await asyncio.to_thread(offer, state.hosting, state.home)
    owner = caller_of(http).owner
    models = list(state.hosting.models.values())
    if state.home is not None and owner is not None:
        own = {row["id"] for row in await asyncio.to_thread(_owned, state.home, owner)}
        models = [model for model in models if model.id in own or not model.id.startswith(TUNED)]
    data = [_model(model) for model in models]
    return JSONResponse({"object": "list", "data": [*data, *_releases(state)]})


@router.get("/v1/models/{name:path}")
async def retrieve_model(name: str, http: HttpRequest) -> Response:
    """One model."""
    state = state_of(http)
    if state.home is not None:
        await asyncio.to_thread(offer, state.hosting, state.home, name)
        if not await asyncio.to_thread(may_see, state.home, name, caller_of(http).owner):
            raise no_such_model(name)
    model = state.hosting.models.get(name)
    if model is not None:
        return JSONResponse(_model(model))
    for release in _releases(state):
        if release["id"] == name:
            return JSONResponse(release)
    raise no_such_model(name)


@router.get("/openapi.json")
async def openapi(http: HttpRequest) -> Response:
    """The description of this API."""
    return JSONResponse(http.app.openapi())


def _owned(home: Home, owner: str) -> Sequence[Record]:
    return tuned_models_of(home.database, owner=owner)


def _releases(state: State) -> list[dict[str, Any]]:
    """Releases by name; what they lead to may change."""
    routes = state.releases.routes if state.releases else {}
    return [
        {
            "id": name,
            "object": "model",
            "created": (route.production or route.canary).created_at,  # type: ignore[union-attr]
            "owned_by": "tunewright",
            "kind": "release",
            "production": route.production and route.production.id,
            "canary": route.canary and route.canary.id,
            "canary_share": route.canary and route.canary.share,
        }
        for name, route in routes.items()
    ]


def _model(model: Served) -> dict[str, Any]:
    return {
        "id": model.id,
        "object": "model",
        "created": model.created_at,
        "owned_by": "tunewright",
        "kind": model.kind,
        "base": model.base,
    }
