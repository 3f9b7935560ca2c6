"""/v1/fine_tuning/checkpoints/{model}/permissions: which projects may use a checkpoint."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi import Request as HttpRequest
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from tunewright.api.paging import asked, home_of, listing, owner_of
from tunewright.api.replies import JSONResponse
from tunewright.jobs import board
from tunewright.jobs.models import get_model
from tunewright.jobs.paging import Page, Record

router = APIRouter()
ROUTE = "/v1/fine_tuning/checkpoints/{model}/permissions"


class PermissionBody(BaseModel):
    """Projects that shall have access."""

    model_config = ConfigDict(extra="forbid")

    project_ids: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00]+$")]],
        Field(min_length=1, max_length=100),
    ]


@router.post(ROUTE)
async def create_permissions(model: str, body: PermissionBody, http: HttpRequest) -> Response:
    """Give projects access to a checkpoint."""
    await _checkpoint(http, model)
    rows = await asked(
        "checkpoint", model, board.add_permissions, home_of(http).database, model, body.project_ids
    )
    return JSONResponse(listing(Page(tuple(rows), False), _show))


@router.get(ROUTE)
async def list_permissions(
    model: str,
    http: HttpRequest,
    project_id: Annotated[str | None, Query(max_length=128)] = None,
    after: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
    order: Literal["ascending", "descending"] = "descending",
) -> Response:
    """Who has access to a checkpoint."""
    await _checkpoint(http, model)
    page = await asked(
        "permission", str(after), board.list_permissions, home_of(http).database, model,
        project=project_id, after=after, limit=limit, newest_first=order == "descending",
    )  # fmt: skip
    return JSONResponse(listing(page, _show))


@router.delete(ROUTE + "/{permission_id}")
async def delete_permission(model: str, permission_id: str, http: HttpRequest) -> Response:
    """Take a project's access back."""
    await _checkpoint(http, model)
    await asked(
        "permission", permission_id, board.drop_permission, home_of(http).database, model,
        permission_id,
    )  # fmt: skip
    shown = {"id": permission_id, "object": "checkpoint.permission", "deleted": True}
    return JSONResponse(shown)


async def _checkpoint(http: HttpRequest, model: str) -> None:
    database, owner = home_of(http).database, owner_of(http)
    await asked("checkpoint", model, get_model, database, model, owner=owner)


def _show(row: Record) -> dict[str, Any]:
    keys = ("id", "created_at", "project_id")
    return {**{key: row[key] for key in keys}, "object": "checkpoint.permission"}
