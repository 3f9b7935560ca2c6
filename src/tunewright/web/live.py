"""A run as it goes on: server-sent events with new curves, figures and log lines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from tunewright.registry import summarise_run
from tunewright.report.page import make_curves
from tunewright.web.pages import _metric, _report, run_of
from tunewright.web.runs import Run, read_progress
from tunewright.web.shell import render_part

router = APIRouter(include_in_schema=False)
LOOK_EVERY_S = 1.0
QUIET_S = 15.0
"""A comment line after so long keeps proxies from closing the stream."""


@router.get("/runs/{name}/events")
async def run_events(name: str, request: Request) -> Response:
    """What changes in a run, until it ends. Each event holds the whole state: nothing is missed."""
    run = await asyncio.to_thread(run_of, request, name)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_events(run), media_type="text/event-stream", headers=headers)


async def _events(run: Run) -> AsyncIterator[str]:
    seen, quiet = None, 0.0
    while True:
        run = replace(run, summary=await asyncio.to_thread(summarise_run, run.summary.path))
        mark = _mark(run)
        if mark != seen:
            seen, quiet = mark, 0.0
            state = await asyncio.to_thread(_state, run)
            yield f"event: state\nid: {mark}\ndata: {json.dumps(state)}\n\n"
        elif quiet >= QUIET_S:
            quiet = 0.0
            yield ": still here\n\n"
        if run.summary.state != "running":
            yield "event: end\ndata: {}\n\n"
            return
        await asyncio.sleep(LOOK_EVERY_S)
        quiet += LOOK_EVERY_S


def _mark(run: Run) -> str:
    """Sizes of the files that grow: what tells whether there is news."""
    folder = run.folder
    files = (folder.steps, folder.evaluations, folder.log, folder.report_json)
    sizes = [path.stat().st_size if path.exists() else 0 for path in files]
    return "-".join(map(str, [*sizes, run.summary.state, run.summary.stage]))


def _state(run: Run) -> dict[str, Any]:
    progress = read_progress(run)
    curves = make_curves(_metric(run, _report(run)), progress["curves"])
    return {
        "state": run.summary.state,
        "tiles": render_part("pages/tiles.html.j2", tiles=progress["tiles"]),
        "curves": render_part("pages/curves.html.j2", curves=curves),
        "log": progress["log"],
        "share": progress["share"],
    }
