"""The story of a release: alarms, tunings, gates and moves in one line of time, and what every
update did to every task. Read from run folders, the server's database and what `auto` wrote.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from tunewright.api.errors import ApiError
from tunewright.api.state import state_of
from tunewright.figures import show_usd
from tunewright.releases.board import Move, Release, list_moves, list_releases
from tunewright.settings import STORY
from tunewright.store import RunFolder
from tunewright.web.runs import read_lines, read_object
from tunewright.web.shell import show_page

router = APIRouter(include_in_schema=False)
MOST_EVENTS = 200
MOST_MOVES = 500
MOST_CLUSTERS = 5
WORDS = {
    "alarm": "alarm", "tuning": "tuning again", "kept": "old model kept", "canary": "canary",
    "promoted": "promoted", "rolled back": "rolled back", "failed": "failed",
}  # fmt: skip
TONES = {"alarm": "bad", "failed": "bad", "rolled back": "bad", "promoted": "good",
         "production": "good", "canary": "open", "tuning": "open"}  # fmt: skip
LEARNING = (
    ("acc", "mean score, %", ".1f"),
    ("bwt", "change of earlier tasks, points", "+.1f"),
    ("fwt", "head start of later tasks, points", "+.1f"),
)


@router.get("/story")
async def stories_page(request: Request) -> Response:
    """The releases that have a story."""
    releases = await asyncio.to_thread(_releases, request)
    names = list(dict.fromkeys(release.name for release in releases))
    if len(names) == 1:
        return await story_page(names[0], request)
    return show_page(request, "pages/stories.html.j2", names=names)


@router.get("/story/{name}")
async def story_page(name: str, request: Request) -> Response:
    """One release from its first version on."""
    releases = await asyncio.to_thread(_releases, request)
    mine = [release for release in releases if release.name == name]
    if not mine:
        raise ApiError(404, f"release {name[:80]!r}: there is none here")
    live = state_of(request).releases
    assert live is not None
    moves = await asyncio.to_thread(list_moves, live.database, name, most=MOST_MOVES)
    home = state_of(request).home
    told = read_lines(home.folder.auto(name) / STORY) if home else []
    return show_page(
        request, "pages/story.html.j2", name=name, versions=[_version(r) for r in mine],
        events=tell_events(mine, moves, told)[:MOST_EVENTS], looked_after=bool(told),
    )  # fmt: skip


def _releases(request: Request) -> list[Release]:
    live = state_of(request).releases
    return [] if live is None else list_releases(live.database)


def tell_events(
    releases: Sequence[Release], moves: Sequence[Move], told: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Everything that happened to a release, the newest first."""
    events = [_of_move(move) for move in moves]
    events += [_of_auto(line) for line in told if line.get("event") in WORDS]
    noted = {(line.get("release"), line.get("batch")) for line in told}
    for release in releases:
        alarms = read_lines(RunFolder(Path(release.run)).watch / "alerts.jsonl")
        for alarm in alarms:
            if (release.id, alarm.get("batch")) not in noted:
                events.append(_of_alarm(release, alarm))
        clusters = {a.get("batch"): a.get("clusters") or () for a in alarms}
        for event in events:
            if event["release"] == release.id and event["event"] == "alarm":
                event["clusters"] = [
                    {"name": str(c.get("name")), "count": c.get("count"),
                     "example": str((c.get("examples") or [""])[0])}
                    for c in list(clusters.get(event["batch"], ()))[:MOST_CLUSTERS]
                ]  # fmt: skip
    return sorted(events, key=lambda event: -event["at"])


def _event(at: Any, event: str, release: str, says: Sequence[str], **more: Any) -> dict[str, Any]:
    return {
        "at": float(at or 0.0), "event": event, "release": release, "says": [str(s) for s in says],
        "word": WORDS.get(event, event), "tone": TONES.get(event, "calm"), "clusters": (),
        "batch": None, "cost": "", **more,
    }  # fmt: skip


def _of_move(move: Move) -> dict[str, Any]:
    share = f", {100 * move.share:g} % of requests" if move.share else ""
    was = f"{move.was} → " if move.was else ""
    says = f"{was}{move.stage}{share}, by {move.who}: {move.why}"
    return _event(move.at, move.stage, f"{move.name}@{move.version}", [says])


def _of_auto(line: Mapping[str, Any]) -> dict[str, Any]:
    cost = line.get("cost_usd")
    return _event(
        line.get("at"), str(line["event"]), str(line.get("release", "")), line.get("says") or (),
        batch=line.get("batch"), cost=show_usd(cost) if cost is not None else "",
    )  # fmt: skip


def _of_alarm(release: Release, alarm: Mapping[str, Any]) -> dict[str, Any]:
    cost = alarm.get("cost_usd")
    return _event(
        alarm.get("time_s"), "alarm", release.id, [alarm.get("sentence", "")],
        batch=alarm.get("batch"), cost=show_usd(cost) if cost is not None else "",
    )  # fmt: skip


def _version(release: Release) -> dict[str, Any]:
    """A version with the scores of every task after every update, where it came of a retune."""
    lineage = read_object(RunFolder(Path(release.run)).path / "lineage.json")
    matrix = [list(row) for row in lineage.get("matrix") or ()]
    learning = lineage.get("learning") or {}
    known = {key: learning.get(key) for key in ("acc", "bwt", "fwt")}
    return {
        "release": release,
        "parent": Path(str(lineage.get("parent", ""))).name,
        "strategy": lineage.get("strategy"),
        "because": [str(line) for line in lineage.get("because") or ()],
        "names": [str(name) for name in lineage.get("names") or ()],
        "matrix": [[None if v is None else f"{100 * v:.1f}" for v in row] for row in matrix],
        "learning": [
            (title, f"{100 * value:{form}}")
            for key, title, form in LEARNING
            if (value := known[key]) is not None
        ],
        "probe": lineage.get("probe"),
        "left_out": lineage.get("left_out") or {},
    }  # fmt: skip
