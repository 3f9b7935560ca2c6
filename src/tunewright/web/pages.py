"""Pages to read: overview, runs, one run, its report, two runs side by side, traffic."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from tunewright.api.errors import ApiError
from tunewright.api.guard import COOKIE
from tunewright.api.paging import owner_of
from tunewright.api.state import state_of
from tunewright.asking import compare as compare_runs
from tunewright.errors import TunewrightError
from tunewright.figures import show_delta, show_delta_interval, show_number, show_p, show_seconds
from tunewright.jobs.board import list_jobs
from tunewright.jobs.folder import JobFolder
from tunewright.journal import silence
from tunewright.records import Report
from tunewright.releases.board import list_releases
from tunewright.report.benefit import make_benefit_page
from tunewright.report.data import make_data_section
from tunewright.report.files import read_report
from tunewright.report.page import make_curves, short_benefit
from tunewright.web.runs import (
    Run,
    find_run,
    find_runs,
    num_decided,
    read_object,
    read_progress,
    review_items,
)
from tunewright.web.shell import HEADERS, read_form, sessions_of, show_page, static_text

router = APIRouter(include_in_schema=False)
LATEST = 8
MAX_JOBS = 100
REPORT_POLICY = "frame-ancestors 'none'"


def roots_of(request: Request) -> list[Path]:
    """Where runs lie: folders of runs, and the run of each job that the visitor may see."""
    home = state_of(request).home
    if home is None:
        return list(request.app.state.runs)
    seen = list_jobs(home.database, owner=owner_of(request), limit=MAX_JOBS).rows
    jobs = [JobFolder(home.folder.job(job["id"])).run.path for job in seen]
    return [*request.app.state.runs, *jobs]


def runs_of(request: Request) -> dict[str, Run]:
    """All runs that the visitor may see, by name; asks the database and the disk."""
    return find_runs(roots_of(request))


def run_of(request: Request, name: str) -> Run:
    """One of them. Raises ApiError 404."""
    return find_run(roots_of(request), name)


@router.get("/")
async def overview(request: Request) -> Response:
    """What there is and how it fares."""
    state = state_of(request)
    runs = await asyncio.to_thread(runs_of, request)
    releases = await asyncio.to_thread(list_releases, state.releases.database) if (
        state.releases
    ) else []  # fmt: skip
    states = [run.summary.state for run in runs.values()]
    tiles = [
        ("Runs", show_number(len(runs)), f"{states.count('running')} running"),
        ("Models to ask", show_number(len(state.hosting.models)),
         f"{len(state.hosting.in_memory)} in memory"),
        ("Requests under way", show_number(state.hosting.num_requests), ""),
        ("In production", show_number(sum(r.stage == "production" for r in releases)), "releases"),
    ]  # fmt: skip
    live = [release for release in releases if release.stage in ("production", "canary", "shadow")]
    return show_page(
        request, "pages/overview.html.j2", tiles=tiles, runs=list(runs.values())[:LATEST],
        releases=live, faults=dict(state.releases.faults) if state.releases else {},
        models=list(state.hosting.models.values()), memory=state.hosting.in_memory,
        address=str(request.base_url),
    )  # fmt: skip


@router.get("/runs")
async def runs_page(request: Request) -> Response:
    """All runs."""
    runs = await asyncio.to_thread(runs_of, request)
    return show_page(request, "pages/runs.html.j2", runs=list(runs.values()))


@router.get("/runs/{name}")
async def run_page(name: str, request: Request) -> Response:
    """One run, live while it goes on: curves, log, verdict, data."""
    run = await asyncio.to_thread(run_of, request, name)
    return await asyncio.to_thread(_show_run, run, request)


def _show_run(run: Run, request: Request) -> Response:
    progress = read_progress(run)
    report = _report(run)
    return show_page(
        request, "pages/run.html.j2", run=run, progress=progress,
        curves=make_curves(_metric(run, report), progress["curves"]), report=report,
        data=make_data_section(read_object(run.folder.card)), num_review=len(review_items(run)),
        num_decided=num_decided(run), benefit=short_benefit(report.details) if report else {},
    )  # fmt: skip


@router.get("/runs/{name}/benefit")
async def benefit_page(name: str, request: Request) -> Response:
    """Whether the model is worth its money, with sliders: as `benefit` wrote it, else as the run
    itself has weighed it. The page brings its own policy.
    """
    run = await asyncio.to_thread(run_of, request, name)
    text = await asyncio.to_thread(_weighed, run)
    return HTMLResponse(text, headers={**HEADERS, "Content-Security-Policy": REPORT_POLICY})


def _weighed(run: Run) -> str:
    if run.folder.benefit_html.is_file():
        return run.folder.benefit_html.read_text(encoding="utf-8")
    report = _report(run)
    if report is None or "word" not in short_benefit(report.details):
        raise ApiError(404, "this run says nothing of its worth; fill in `business:` of its recipe")
    return make_benefit_page(report.details["benefit"], f"{report.base_model}, {run.name}")


@router.get("/runs/{name}/review")
async def review_page(name: str, request: Request) -> Response:
    """Rows to decide on, one by one."""
    run = await asyncio.to_thread(run_of, request, name)
    items = await asyncio.to_thread(review_items, run)
    card = read_object(run.folder.card)
    return show_page(
        request, "pages/review.html.j2", run=run, items=items, labels=card.get("labels") or [],
        num_decided=num_decided(run),
    )  # fmt: skip


@router.get("/runs/{name}/report")
async def report_page(name: str, request: Request) -> Response:
    """The report as the run wrote it; the page brings its own policy."""
    path = (await asyncio.to_thread(run_of, request, name)).folder.report_html
    if not path.is_file():
        raise ApiError(404, "this run has no report yet")
    text = await asyncio.to_thread(path.read_text, encoding="utf-8")
    return HTMLResponse(text, headers={**HEADERS, "Content-Security-Policy": REPORT_POLICY})


@router.get("/compare")
async def compare_page(request: Request, a: str = "", b: str = "") -> Response:
    """Two runs side by side, and the paired test."""
    runs = await asyncio.to_thread(runs_of, request)
    finished = {name: run for name, run in runs.items() if run.summary.state == "finished"}
    values: dict[str, Any] = {"names": list(finished), "a": a, "b": b, "found": None, "fault": ""}
    if a or b:
        if a in finished and b in finished:
            values |= await asyncio.to_thread(_compare, finished[a], finished[b])
        else:
            values["fault"] = "choose two finished runs"
    return show_page(request, "pages/compare.html.j2", **values)


def _compare(a: Run, b: Run) -> dict[str, Any]:
    reports = [_report(run) for run in (a, b)]
    table = _metric_table([report for report in reports if report])
    sides = [
        {
            "name": run.name,
            "curves": make_curves(
                _metric(run, report),
                read_progress(run)["curves"],
            )[:2],
        }
        for run, report in zip((a, b), reports, strict=True)
    ]  # fmt: skip
    try:
        (test,) = compare_runs(str(a.summary.path), str(b.summary.path), silence())
    except TunewrightError as error:
        return {"found": None, "fault": str(error), "table": table, "sides": sides}
    metric = test.metric
    found = {
        "verdict": test.verdict,
        "metric": metric,
        "delta": show_delta(metric, test.delta),
        "interval": show_delta_interval(metric, test.ci95),
        "p": show_p(test.p_value),
        "test": test.test,
        "n": show_number(test.n),
        "least": show_delta(metric, test.minimum_detectable).lstrip("+"),
    }
    return {"found": found, "table": table, "sides": sides}


def _metric_table(reports: list[Report]) -> list[tuple[str, list[Any]]]:
    """Metric to the scores of the tuned model on test, in the order of the reports."""
    tuned = [
        next((r for r in report.results if (r.system, r.split) == ("tuned", "test")), None)
        for report in reports
    ]
    names = list(dict.fromkeys(name for result in tuned if result for name in result.metrics))
    rows: list[tuple[str, list[Any]]] = [
        (name, [result.metrics.get(name) if result else None for result in tuned]) for name in names
    ]
    return rows


@router.get("/traffic")
async def traffic_page(request: Request) -> Response:
    """Requests since the server started."""
    state = state_of(request)
    routes: dict[str, dict[str, float]] = {}
    models: list[tuple[str, float]] = []
    tokens: dict[str, float] = {}
    shadows: dict[str, dict[str, float]] = {}
    for family in state.registry.collect():
        for sample in family.samples:
            if sample.name == "tunewright_requests_total":
                row = routes.setdefault(sample.labels["route"], {})
                row[sample.labels["status"]] = sample.value
            elif sample.name == "tunewright_request_seconds_sum":
                routes.setdefault(sample.labels["route"], {})["seconds"] = sample.value
            elif sample.name == "tunewright_model_requests_total":
                models.append((sample.labels["model"], sample.value))
            elif sample.name == "tunewright_tokens_total":
                tokens[sample.labels["side"]] = sample.value
            elif sample.name == "tunewright_shadow_requests_total":
                row = shadows.setdefault(sample.labels["release"], {})
                row[sample.labels["outcome"]] = sample.value
    table = [_route_row(route, row) for route, row in sorted(routes.items())
             if route.startswith("/v1/")]  # fmt: skip
    return show_page(
        request, "pages/traffic.html.j2", routes=table,
        models=sorted(models, key=lambda item: -item[1]), tokens=tokens, shadows=shadows,
    )  # fmt: skip


def _route_row(route: str, row: dict[str, float]) -> dict[str, Any]:
    counts = {status: count for status, count in row.items() if status != "seconds"}
    total = sum(counts.values())
    failed = sum(count for status, count in counts.items() if status >= "500")
    refused = sum(count for status, count in counts.items() if "400" <= status < "500")
    return {
        "route": route, "total": int(total), "refused": int(refused), "failed": int(failed),
        "mean": _short_time(row.get("seconds", 0.0) / total) if total else "",
    }  # fmt: skip


def _short_time(seconds: float) -> str:
    return f"{1000 * seconds:,.3g} ms" if seconds < 1 else show_seconds(seconds)


@router.get("/playground")
async def playground(request: Request, model: str = "", beside: str = "") -> Response:
    """Ask two models the same thing."""
    state = state_of(request)
    models = [
        {"id": item.id, "kind": item.kind, "base": item.base}
        for item in state.hosting.models.values()
        if item.kind in ("text", "labels")
    ]
    names = list(state.releases.routes) if state.releases else []
    for name in names:
        route = state.releases.routes[name] if state.releases else None
        live = route and (route.production or route.canary)
        served = state.hosting.models.get(live.id) if live else None
        if served and served.kind in ("text", "labels"):
            models.insert(0, {"id": name, "kind": served.kind, "base": served.base})
    return show_page(request, "pages/playground.html.j2", models=models, model=model, beside=beside)


@router.get("/login")
async def login_page(request: Request) -> Response:
    """Ask for a key."""
    return show_page(request, "pages/login.html.j2", wrong=False)


@router.post("/login")
async def login(request: Request) -> Response:
    """Trade a key for a cookie that scripts cannot read and other sites cannot send."""
    fields = await read_form(request)
    caller = request.app.state.keys.find(fields.get("key", "").strip().encode())
    if caller is None:
        return show_page(request, "pages/login.html.j2", wrong=True, status=401)
    reply = RedirectResponse("/", status_code=303)
    reply.set_cookie(
        COOKIE, sessions_of(request).begin(caller), httponly=True, samesite="strict", path="/",
        secure=request.url.scheme == "https",
    )  # fmt: skip
    return reply


@router.post("/logout")
async def logout(request: Request) -> Response:
    """Forget who logged in."""
    await read_form(request)
    sessions_of(request).end(request.cookies.get(COOKIE, ""))
    reply = RedirectResponse("/login", status_code=303)
    reply.delete_cookie(COOKIE, path="/")
    return reply


@router.get("/static/pages.{kind}")
async def static(kind: str) -> Response:
    """The style and the script of all pages."""
    types = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
    if kind not in types:
        raise ApiError(404, "there is no such file")
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
    return Response(static_text(kind), media_type=types[kind], headers=headers)


def _report(run: Run) -> Report | None:
    if not run.folder.report_json.exists():
        return None
    try:
        return read_report(run.folder)
    except TunewrightError:
        return None


def _metric(run: Run, report: Report | None) -> str | None:
    if report is not None:
        return report.primary_metric
    evaluations = read_progress(run)["curves"]["evaluations"]
    metrics = evaluations[-1].get("metrics") if evaluations else None
    return next(iter(metrics), None) if isinstance(metrics, dict) else None
