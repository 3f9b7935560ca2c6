"""What the server is and how it fares: models, health, metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from tunewright.api.errors import no_such_model
from tunewright.api.state import state_of
from tunewright.hosting import Served

router = APIRouter()


@router.get("/healthz")
async def healthz() -> Response:
    """The process runs."""
    return JSONResponse({"status": "ok"})


@router.get("/readyz")
async def readyz(http: HttpRequest) -> Response:
    """Requests can be answered."""
    return JSONResponse({"status": "ok", "models": len(state_of(http).hosting.models)})


@router.get("/metrics")
async def metrics(http: HttpRequest) -> Response:
    """Counters in Prometheus' text format."""
    text = generate_latest(state_of(http).registry)
    return PlainTextResponse(text, headers={"Content-Type": CONTENT_TYPE_LATEST})


@router.get("/v1/models")
async def list_models(http: HttpRequest) -> Response:
    """Everything that can be asked."""
    models = state_of(http).hosting.models.values()
    return JSONResponse({"object": "list", "data": [_model(model) for model in models]})


@router.get("/v1/models/{name:path}")
async def retrieve_model(name: str, http: HttpRequest) -> Response:
    """One model."""
    model = state_of(http).hosting.models.get(name)
    if model is None:
        raise no_such_model(name)
    return JSONResponse(_model(model))


def _model(model: Served) -> dict[str, Any]:
    return {
        "id": model.id,
        "object": "model",
        "created": model.created_at,
        "owned_by": "tunewright",
        "kind": model.kind,
        "base": model.base,
    }
