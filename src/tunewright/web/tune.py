"""Start a run from an uploaded file: the forecast, then the button; and the jobs there are."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from tunewright.api.errors import ApiError
from tunewright.api.paging import home_of, owner_of
from tunewright.api.state import state_of
from tunewright.figures import show_bytes, show_number, show_seconds, show_usd
from tunewright.jobs.board import list_jobs
from tunewright.jobs.files import get_file, list_files
from tunewright.jobs.folder import JobFolder
from tunewright.jobs.home import Home
from tunewright.journal import silence
from tunewright.web.shell import check_token, show_page

router = APIRouter(include_in_schema=False)
MAX_SHOWN = 100
_ONE_AT_A_TIME = asyncio.Semaphore(1)


class Wanted(BaseModel):
    """What a run would be started with."""

    model: str = Field(min_length=1, max_length=256)
    training_file: str = Field(min_length=1, max_length=64)
    method: Literal["supervised", "dpo"] = "supervised"
    n_epochs: int | None = Field(default=None, ge=1, le=50)


@router.get("/tune")
async def tune_page(request: Request) -> Response:
    """Files, bases, and jobs."""
    home = state_of(request).home
    files: list[Any] = []
    jobs: list[Any] = []
    if home is not None:
        owner = owner_of(request)
        page = await asyncio.to_thread(
            list_files, home.database, owner=owner, purpose="fine-tune", after=None,
            limit=MAX_SHOWN, newest_first=True,
        )  # fmt: skip
        found = await asyncio.to_thread(list_jobs, home.database, owner=owner, limit=MAX_SHOWN)
        files, jobs = list(page.rows), list(found.rows)
    bases = list(home.settings.models) if home else []
    begun = {job["id"] for job in jobs if home and _has_run(home, job["id"])}
    return show_page(
        request, "pages/tune.html.j2", files=files, jobs=jobs, bases=bases, begun=begun,
        has_home=home is not None,
    )  # fmt: skip


def _has_run(home: Home, job_id: str) -> bool:
    """Whether there is something to see of a job."""
    return JobFolder(home.folder.job(job_id)).run.path.is_dir()


@router.post("/tune/forecast")
async def forecast(body: Wanted, request: Request) -> Response:
    """What the run would take, and what its data warns of."""
    check_token(request, request.headers.get("x-page-token", ""))
    home = home_of(request)
    asked = _request(home, body, owner_of(request))
    async with _ONE_AT_A_TIME:
        document = await asyncio.to_thread(_look_ahead, asked)
    told = document["forecast"]
    low, high = told["seconds_range"]
    rows = [
        ("Time", f"{show_seconds(told['seconds'])} ({show_seconds(low)} to {show_seconds(high)})"),
        ("Memory at the peak", show_bytes(told["peak_memory_bytes"])),
        ("Tokens", show_number(told["tokens"])),
        ("Steps", show_number(told["steps"])),
        ("Cost", show_usd(told["usd"])),
        ("On", str(told["device"])),
        ("Fits", str(told["fits"])),
    ]
    settings = ", ".join(f"{key} {value}" for key, value in document["hyperparameters"].items())
    return JSONResponse(
        {"rows": [*rows, ("Settings", settings)], "warnings": document["warnings"][:10]}
    )


def _request(home: Home, body: Wanted, owner: str | None) -> dict[str, Any]:
    """The job as its worker would be told. Raises ApiError."""
    base = home.settings.base_of(body.model)
    if base is None:
        raise ApiError(400, f"model: no local base stands for {body.model!r}", param="model")
    try:
        file = get_file(home.database, body.training_file, owner=owner)
    except KeyError:
        raise ApiError(404, "training_file: there is none of this id") from None
    jobs = home.settings.jobs
    return {
        "model": body.model, "base_model": base, "method": body.method,
        "hyperparameters": {"n_epochs": body.n_epochs or "auto"}, "seed": 17,
        "training_path": str(home.folder.file(file["id"])), "validation_path": None,
        "validation": jobs.validation, "test": jobs.test, "min_rows": jobs.min_rows,
        "recipe": jobs.recipe, "trackers": [],
    }  # fmt: skip


def _look_ahead(asked: dict[str, Any]) -> dict[str, Any]:
    from tunewright.jobs.prepare import look_ahead

    return look_ahead(asked, silence())[1]
