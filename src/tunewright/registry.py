"""Which runs there are, read from their folders. Reads only; no torch.

A run folder tells everything about itself, so there is no index that could disagree with the disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tunewright.cost.calibration import Record
from tunewright.errors import RunError
from tunewright.store import RunFolder, read_jsonl

if TYPE_CHECKING:
    from tunewright.config import Recipe

QUANTITIES = {
    "memory": "peak_memory_bytes",
    "seconds": "seconds",
    "tokens": "tokens",
    "energy": "energy_kwh",
}
VERSION = 1
"""Of the arithmetic: forecasts of another one say nothing about today's (cost/)."""
DECISIONS = ("pilot.json", "choose.json", "search.json")
"""What `pilot`, `choose` and `search` leave beside a recipe.yaml: such a folder is no run."""
RunState = Literal["finished", "running", "interrupted", "unreadable"]


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run in a line. None where the run has not come that far.

    stage: how far it came. value and ci95: of the deciding metric, for the tuned model on test.
    changed_at: when its newest file was written, ISO 8601 in UTC. seconds: what the whole run took.
    """

    path: Path
    state: RunState
    stage: str | None
    changed_at: str
    task: str | None = None
    base_model: str | None = None
    verdict: str | None = None
    metric: str | None = None
    value: float | None = None
    ci95: tuple[float, float] | None = None
    seconds: float | None = None


def list_runs(root: Path) -> list[RunSummary]:
    """Every run directly below root (or root itself, when it is one), the newest first.

    Raises RunError when root cannot be listed.
    """
    if _is_run(root):
        return [summarise_run(root)]
    try:
        folders = sorted(path for path in root.iterdir() if _is_run(path))
    except OSError as error:
        raise RunError(f"{root}: cannot be listed ({error.strerror}); check the path") from error
    runs = [summarise_run(path) for path in folders]
    return sorted(runs, key=lambda run: (run.changed_at, run.path.name), reverse=True)


def summarise_run(path: Path) -> RunSummary:
    """What one run folder says about itself; state "unreadable" when a file in it is damaged."""
    folder = RunFolder(path)
    changed_at = datetime.fromtimestamp(_newest_change(folder), UTC).isoformat(timespec="seconds")
    state = _read_object(folder.state)
    report = _read_object(folder.report_json)
    stage = _text((state or {}).get("stage"))
    if state is None or report is None:
        return RunSummary(path, "unreadable", stage, changed_at)
    if not report:
        word: RunState = "running" if _is_alive(state) else "interrupted"
        return RunSummary(path, word, stage, changed_at, **_recipe_facts(folder))
    return RunSummary(path, "finished", stage, changed_at, **_report_facts(report))


def forecast_records(root: Path) -> dict[str, list[Record]]:
    """Forecast beside measured of all finished runs below root, by quantity; oldest first.

    Quantities: memory (peak bytes), seconds, tokens, energy, and score: what a pilot or a choice
    below root foretold for validation, where a run took its recipe. Runs without both are left out.
    """
    found: dict[str, list[Record]] = {name: [] for name in (*QUANTITIES, "score")}
    foretold = _foretold_scores(root)
    for run in reversed(list_runs(root)):
        report = _read_object(RunFolder(run.path).report_json) or {}
        device = _text(_get(report, "details", "environment", "device")) or "unknown"
        version = _text(_get(report, "details", "environment", "tunewright")) or "unknown"
        for name, key in QUANTITIES.items():
            forecast = _number(_get(report, "cost", key, "forecast"))
            measured = _number(_get(report, "cost", key, "measured"))
            if forecast and measured and _get(report, "details", "forecast_version") == VERSION:
                found[name].append(Record(str(run.path), device, forecast, measured, version))
        for recipe, metric, forecast in foretold if report else ():
            measured = _best_look(RunFolder(run.path), metric)
            if measured and _asked(RunFolder(run.path)) == recipe:
                found["score"].append(Record(str(run.path), device, forecast, measured, version))
    return found


def _foretold_scores(root: Path) -> list[tuple[Recipe, str, float]]:
    """(recipe for the whole run, metric, score) of every pilot and choice below root."""
    found = []
    for path in sorted(root.iterdir()):
        pilot, choice = (_read_object(path / name) or {} for name in DECISIONS[:2])
        winner = next((row for row in _objects(choice.get("candidates"))
                       if row.get("name") == choice.get("winner")), None)  # fmt: skip
        value = _number(_get(pilot, "forecast", "value")) or _number(_get(winner, "expected"))
        metric = _text(pilot.get("metric")) or _text(choice.get("metric"))
        recipe = _recipe(path / "recipe.yaml") if value and metric else None
        if recipe is not None and metric and value:
            found.append((recipe, metric, value))
    return found


def _best_look(folder: RunFolder, metric: str) -> float | None:
    """The metric at the best look at validation; None where it was not looked at."""
    looks = [look for look in _objects(read_jsonl(folder.evaluations)) if look.get("best")]
    return _number(_get(looks[-1], "metrics", metric)) if looks else None


def _asked(folder: RunFolder) -> Recipe | None:
    """The recipe that a run began with, before anything was derived."""
    from tunewright.config import parse_recipe
    from tunewright.errors import RecipeError

    text = _text((_read_object(folder.state) or {}).get("asked"))
    try:
        return parse_recipe(text, str(folder.state)) if text else None
    except RecipeError:
        return None


def _is_run(path: Path) -> bool:
    folder = RunFolder(path)
    if not path.is_dir() or folder.report_json.is_file() or folder.state.is_file():
        return path.is_dir()
    return folder.recipe.is_file() and not any((path / name).exists() for name in DECISIONS)


def _newest_change(folder: RunFolder) -> float:
    files = (folder.recipe, folder.state, folder.steps, folder.report_json)
    return max(file.stat().st_mtime for file in (folder.path, *files) if file.exists())


def _read_object(path: Path) -> Mapping[str, Any] | None:
    """A JSON object; {} when the file is missing, None when it is damaged."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _recipe_facts(folder: RunFolder) -> dict[str, Any]:
    recipe = _recipe(folder.recipe)
    return {} if recipe is None else {"task": recipe.task, "base_model": recipe.base_model}


def _recipe(path: Path) -> Recipe | None:
    from tunewright.config import read_recipe
    from tunewright.errors import RecipeError

    try:
        return read_recipe(path)
    except RecipeError:
        return None


def _report_facts(report: Mapping[str, Any]) -> dict[str, Any]:
    metric = _text(report.get("primary_metric")) or _text(_get(report, "details", "primary_metric"))
    value, ci95 = _tuned_score(report, metric)
    return {
        "task": _text(report.get("task")),
        "base_model": _text(report.get("base_model")),
        "verdict": _text(report.get("verdict")),
        "metric": metric,
        "value": value,
        "ci95": ci95,
        "seconds": _number(_get(report, "cost", "seconds", "measured")),
    }


def _tuned_score(
    report: Mapping[str, Any], metric: str | None
) -> tuple[float | None, tuple[float, float] | None]:
    for result in _objects(report.get("results")):
        if result.get("system") == "tuned" and result.get("split") == "test":
            score = _get(result, "metrics", metric or "") or {}
            value = _number(_get(score, "value"))
            return value, _interval(_get(score, "ci95"))
    return None, None


def _interval(ends: Any) -> tuple[float, float] | None:
    if not isinstance(ends, list) or len(ends) != 2:
        return None
    low, high = _number(ends[0]), _number(ends[1])
    return None if low is None or high is None else (low, high)


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    items = value if isinstance(value, list) else []
    yield from (item for item in items if isinstance(item, Mapping))


def _get(value: Any, *keys: str) -> Any:
    for key in keys:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _is_alive(state: Mapping[str, Any]) -> bool:
    """True when the process that wrote the state still runs on this machine."""
    import socket

    import psutil

    pid = state.get("pid")
    elsewhere = state.get("host") not in (None, socket.gethostname())
    return isinstance(pid, int) and not elsewhere and psutil.pid_exists(pid)
