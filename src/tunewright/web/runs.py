"""Runs as pages see them: found by name among what there is, never by a path that a client sent."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.api.errors import ApiError
from tunewright.cleaning import SURE_KINDS, add_decision, bare_place, read_decisions
from tunewright.cleaning import Decision as Decision
from tunewright.config import Recipe, read_recipe
from tunewright.data.formats import read_rows
from tunewright.errors import TunewrightError
from tunewright.figures import show_bytes, show_number, show_seconds
from tunewright.registry import RunSummary, list_runs
from tunewright.store import RunFolder

MAX_RUNS = 200
MAX_REVIEW = 100
MAX_ROWS_READ = 300_000
MAX_LOG_LINES = 200
REVIEW = "review.jsonl"
"""In the run folder: what was decided about its rows; `check --decisions` reads it."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run and the name that its pages have."""

    name: str
    summary: RunSummary

    @property
    def folder(self) -> RunFolder:
        """Its files."""
        return RunFolder(self.summary.path)


def find_runs(roots: Sequence[Path]) -> dict[str, Run]:
    """All runs below the roots, by name, the newest first; numbers tell equal names apart."""
    found: dict[str, Run] = {}
    for summary in _summaries(roots):
        # The run of a job lies in the job's folder and goes by its id.
        own = summary.path.parent.name if summary.path.name == "run" else summary.path.name
        name, number = own, 2
        while name in found:
            name, number = f"{own}~{number}", number + 1
        found[name] = Run(name, summary)
    return found


def find_run(roots: Sequence[Path], name: str) -> Run:
    """One run. Raises ApiError 404."""
    run = find_runs(roots).get(name)
    if run is None:
        raise ApiError(404, f"run {name[:100]!r}: there is none here")
    return run


def _summaries(roots: Sequence[Path]) -> list[RunSummary]:
    found: dict[Path, RunSummary] = {}
    for root in roots:
        if root.is_dir():
            found |= {item.path.resolve(): item for item in list_runs(root)}
    return sorted(found.values(), key=lambda run: run.changed_at, reverse=True)[:MAX_RUNS]


def read_progress(run: Run) -> dict[str, Any]:
    """How a run stands: figures for tiles, rows for curves, the end of its log."""
    steps = read_lines(run.folder.steps)
    last = steps[-1] if steps else {}
    share = _share_done(run, last)
    left = None
    if share and run.summary.state == "running":
        left = float(last.get("seconds") or 0) * (1 - share) / share
    tiles = [
        (
            "Step",
            show_number(last.get("step")),
            f"{100 * share:.0f} % of training" if share else "",
        ),
        ("Loss", show_number(last.get("loss")), ""),
        ("Tokens per second", show_number(last.get("tokens_per_s")), ""),
        ("Time left", show_seconds(left), "of training")
        if run.summary.state == "running"
        else ("Took", show_seconds(run.summary.seconds), "the whole run"),
        ("Peak memory", show_bytes(last.get("peak_memory_bytes")), ""),
    ]
    return {
        "tiles": tiles,
        "curves": {"steps": steps, "evaluations": read_lines(run.folder.evaluations)},
        "log": read_log(run),
        "share": share,
    }


def read_lines(path: Path, most_bytes: int | None = None) -> list[dict[str, Any]]:
    """Objects of a JSONL file that may still be written: a last line that is half there is left.

    most_bytes: of its end; None reads all.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - most_bytes) if most_bytes is not None else 0)
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def read_log(run: Run) -> list[str]:
    """The last lines of what was said."""
    try:
        text = run.folder.log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.splitlines()[-MAX_LOG_LINES:]


def recipe_of(run: Run) -> Recipe | None:
    """The recipe as resolved; None when it cannot be read."""
    try:
        return read_recipe(run.folder.recipe)
    except TunewrightError:
        return None


def _share_done(run: Run, last: Mapping[str, Any]) -> float | None:
    recipe = recipe_of(run)
    if recipe is None or not last:
        return None
    parts = []
    if recipe.training.max_steps:
        parts.append(float(last.get("step") or 0) / recipe.training.max_steps)
    if isinstance(recipe.training.num_epochs, int | float) and last.get("epoch") is not None:
        parts.append(float(last.get("epoch") or 0) / float(recipe.training.num_epochs))
    return min(1.0, max(parts)) if parts else None


def review_items(run: Run) -> list[dict[str, Any]]:
    """Rows that warnings name and nobody decided on yet, with their text where it can be read."""
    card = read_object(run.folder.card)
    done = {(d.place, d.kind) for d in _decided(run)}
    items: dict[tuple[str, str], dict[str, Any]] = {}
    for finding in card.get("findings") or ():
        suggestions = finding.get("suggestions") or ()
        calm = finding.get("severity") == "info" and not any(suggestions)
        if calm or finding.get("dropped") or finding.get("kind") in SURE_KINDS:
            continue
        for number, place in enumerate(finding.get("places") or ()):
            key = (place, finding["kind"])
            if key in done or key in items or len(items) >= MAX_REVIEW:
                continue
            rows = finding.get("rows") or ()
            items[key] = {
                "kind": finding["kind"],
                "message": str(finding.get("message", "")).partition(" (first")[0],
                "place": place,
                "id": rows[number] if number < len(rows) else "",
                "suggestion": suggestions[number] if number < len(suggestions) else "",
            }
    texts = _texts(run, card, {bare_place(place) for place, _ in items})
    for item in items.values():
        item["input"], item["output"] = texts.get(bare_place(item["place"]), ("", ""))
    return list(items.values())


def decide(run: Run, decision: Decision) -> None:
    """Write a decision down. Raises ApiError 400 for a row that is not to be reviewed."""
    labels = read_object(run.folder.card).get("labels") or []
    open_rows = {(item["place"], item["kind"], item["id"]) for item in review_items(run)}
    if (decision.place, decision.kind, decision.id) not in open_rows:
        raise ApiError(400, f"{decision.place[:100]}: no row to decide on")
    if decision.decision not in ("keep", "drop", "relabel"):
        raise ApiError(400, f"decision {decision.decision[:40]!r}: keep, drop or relabel")
    if decision.decision == "relabel" and decision.label not in labels:
        raise ApiError(400, f"label {decision.label[:80]!r}: not in the data")
    add_decision(run.folder.path / REVIEW, decision)


def num_decided(run: Run) -> int:
    """Rows that were decided on."""
    return len(_decided(run))


def _decided(run: Run) -> list[Decision]:
    path = run.folder.path / REVIEW
    return read_decisions(path) if path.exists() else []


def _texts(run: Run, card: Mapping[str, Any], places: set[str]) -> dict[str, tuple[str, str]]:
    """Input and output of training rows by place, read from the file that they came from."""
    recipe = recipe_of(run)
    source = recipe.data.train if recipe else None
    if not places or not isinstance(source, str) or "://" in source:
        return {}
    columns = card.get("columns") or {}
    found: dict[str, tuple[str, str]] = {}
    try:
        for number, (place, row) in enumerate(read_rows(source)):
            if place in places:
                cells = row if isinstance(row, Mapping) else {}
                given, wanted = columns.get("input"), columns.get("output")
                text = cells.get(given) if given else json.dumps(row, ensure_ascii=False)
                found[place] = (str(text), str(cells.get(wanted, "")) if wanted else "")
            if number > MAX_ROWS_READ or len(found) == len(places):
                break
    except TunewrightError:  # the file has moved: places alone are shown
        return found
    return found


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; {} when it is missing or broken."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
