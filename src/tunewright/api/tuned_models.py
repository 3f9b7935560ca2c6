"""DELETE /v1/models/{model}: a tuned model that shall be asked no more."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import Response

from tunewright.api.errors import ApiError, no_such_model
from tunewright.api.paging import asked, home_of, owner_of
from tunewright.api.replies import JSONResponse
from tunewright.api.state import state_of
from tunewright.jobs.models import delete_model

router = APIRouter()


@router.delete("/v1/models/{name:path}")
async def delete_tuned_model(name: str, http: HttpRequest) -> Response:
    """Offer a tuned model no longer; its run stays in the server's folder."""
    state = state_of(http)
    home, owner = home_of(http), owner_of(http)
    try:
        await asked("model", name, delete_model, home.database, name, owner=owner)
    except ApiError as error:
        if name in state.hosting.models and error.status == 404:
            text = f"{name}: not a model that a job of this server made"
            raise ApiError(403, text, kind="permission_error") from None
        raise no_such_model(name) from None
    state.hosting.remove(name)
    return JSONResponse({"id": name, "object": "model", "deleted": True})
