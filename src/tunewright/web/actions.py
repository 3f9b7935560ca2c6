"""What pages change: releases promoted and rolled back, rows reviewed."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from pydantic import BaseModel, Field

from tunewright.api.census import caller_of
from tunewright.api.errors import ApiError
from tunewright.api.state import state_of
from tunewright.database.engine import Database
from tunewright.errors import TunewrightError
from tunewright.journal import silence
from tunewright.releases.board import STAGES, list_moves, list_releases, roll_back
from tunewright.releases.live import LiveReleases
from tunewright.releases.story import enter_run, find_version, promote
from tunewright.web.pages import roots_of, run_of, runs_of
from tunewright.web.runs import Decision, decide, find_run
from tunewright.web.shell import check_token, read_form, show_page

router = APIRouter(include_in_schema=False)


class Verdict(BaseModel):
    """A decision about one row."""

    place: str = Field(max_length=1000)
    id: str = Field(max_length=200)
    kind: str = Field(max_length=100)
    decision: str = Field(max_length=20)
    label: str = Field(default="", max_length=1000)


@router.post("/runs/{name}/review")
async def review(name: str, body: Verdict, request: Request) -> Response:
    """Write down what was decided about a row."""
    check_token(request, request.headers.get("x-page-token", ""))
    run = await asyncio.to_thread(run_of, request, name)
    await asyncio.to_thread(decide, run, Decision(**body.model_dump()))
    return JSONResponse({"decided": body.place})


@router.get("/releases")
async def releases_page(request: Request) -> Response:
    """All releases with their history, and what can be done with them."""
    return await _show(request)


@router.post("/releases/promote")
async def promote_page(request: Request) -> Response:
    """Move a version, or enter a run."""
    fields = await read_form(request)
    live = _live(request)
    try:
        done = await asyncio.to_thread(_promote, live.database, dict(fields), request)
        await asyncio.to_thread(live.refresh)
    except TunewrightError as error:
        return await _show(request, fault=str(error))
    fault = live.faults.get(done)
    return await _show(request, fault=fault) if fault else RedirectResponse("/releases", 303)


@router.post("/releases/rollback")
async def rollback_page(request: Request) -> Response:
    """Bring back what was in production before."""
    fields = await read_form(request)
    live = _live(request)
    try:
        await asyncio.to_thread(roll_back, live.database, fields.get("name", ""), who=_who(request))
        await asyncio.to_thread(live.refresh)
    except TunewrightError as error:
        return await _show(request, fault=str(error))
    return RedirectResponse("/releases", 303)


def _promote(database: Database, fields: dict[str, str], request: Request) -> str:
    stage = next((known for known in STAGES if known == fields.get("stage")), None)
    if stage is None:
        raise ApiError(400, "stage: choose one of the list")
    if fields.get("run"):
        run = find_run(roots_of(request), fields["run"])
        name = fields.get("name") or None
        release = enter_run(database, Path(run.summary.path), name, who=_who(request))
    else:
        release = find_version(database, fields.get("what", ""))
    share = _share(fields.get("share", "")) if stage == "canary" else None
    promote(database, release, stage, silence(), who=_who(request), share=share)
    return release.name


def _share(text: str) -> float | None:
    """A share from per cent as a person types it; None for nothing."""
    if not text.strip():
        return None
    try:
        return float(text.strip().rstrip("%")) / 100
    except ValueError:
        raise ApiError(400, f"share {text[:40]!r}: give per cent, 5 or 12.5") from None


async def _show(request: Request, fault: str | None = None) -> Response:
    live = state_of(request).releases
    runs = await asyncio.to_thread(runs_of, request)
    finished = [name for name, run in runs.items() if run.summary.state == "finished"]
    groups: dict[str, list[object]] = {}
    moves = []
    if live is not None:
        for release in await asyncio.to_thread(list_releases, live.database):
            groups.setdefault(release.name, []).append(release)
        moves = await asyncio.to_thread(list_moves, live.database)
    return show_page(
        request, "pages/releases.html.j2", groups=groups, moves=moves[:30], runs=finished,
        stages=STAGES, fault=fault, faults=dict(live.faults) if live else {},
        has_database=live is not None, status=409 if fault else 200,
    )  # fmt: skip


def _live(request: Request) -> LiveReleases:
    live = state_of(request).releases
    if live is None:
        raise ApiError(409, "this server was started without a database; there are no releases")
    return live


def _who(request: Request) -> str:
    return caller_of(request).id or "dashboard"
