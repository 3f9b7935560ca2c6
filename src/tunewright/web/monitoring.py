"""Pages of the watch: which runs are watched, what raised an alarm, and the watch's own page."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from tunewright.api.errors import ApiError
from tunewright.figures import show_usd
from tunewright.web.pages import REPORT_POLICY, run_of, runs_of
from tunewright.web.runs import Run, read_lines
from tunewright.web.shell import HEADERS, show_page

router = APIRouter(include_in_schema=False)
PAGE, ALERTS, PROFILE = "watch.html", "alerts.jsonl", "profile.json"
MAX_ALERTS = 20
TAIL_BYTES = 1 << 20


@router.get("/monitoring")
async def monitoring_page(request: Request) -> Response:
    """Watched runs and their latest alarms."""
    runs = await asyncio.to_thread(runs_of, request)
    watched, alerts = await asyncio.to_thread(_look, runs.values())
    return show_page(request, "pages/monitoring.html.j2", watched=watched, alerts=alerts)


@router.get("/runs/{name}/watch")
async def watch_page(name: str, request: Request) -> Response:
    """The page that `tunewright watch` wrote last; it brings its own policy."""
    run = await asyncio.to_thread(run_of, request, name)
    path = run.folder.watch / PAGE
    if not path.is_file():
        raise ApiError(404, "this run was not watched yet")
    text = await asyncio.to_thread(path.read_text, encoding="utf-8")
    return HTMLResponse(text, headers={**HEADERS, "Content-Security-Policy": REPORT_POLICY})


def _look(runs: Iterable[Run]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(runs that are watched; alarms of all of them, the newest first)."""
    watched: list[dict[str, Any]] = []
    alerts: list[dict[str, Any]] = []
    for run in runs:
        folder = run.folder.watch
        if not folder.is_dir():
            continue
        told = [_alert(run, line) for line in read_lines(folder / ALERTS, TAIL_BYTES)]
        page = folder / PAGE
        watched.append({
            "name": run.name, "alerts": len(told), "has_page": page.is_file(),
            "seen_at": _changed_at(page, folder / ALERTS, folder / PROFILE),
        })  # fmt: skip
        alerts += told
    alerts.sort(key=lambda alert: alert["at"], reverse=True)
    return watched, alerts[:MAX_ALERTS]


def _alert(run: Run, line: dict[str, Any]) -> dict[str, Any]:
    rules = [str(signal.get("rule")) for signal in line.get("signals") or ()]
    cost = line.get("cost_usd")
    return {
        "run": run.name, "at": float(line.get("time_s") or 0.0),
        "rules": ", ".join(dict.fromkeys(rules)), "says": str(line.get("sentence") or ""),
        "action": str(line.get("action") or ""),
        "cost": None if cost is None else show_usd(float(cost)),
    }  # fmt: skip


def _changed_at(*paths: Path) -> float | None:
    times = [os.stat(path).st_mtime for path in paths if path.exists()]
    return max(times, default=None)
