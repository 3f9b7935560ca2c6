"""The model card that travels with an export: scores with intervals, data, licence, limits.

README.md with the metadata that model hubs read. Everything in it comes from the run's own files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tunewright import figures
from tunewright.model.load import Base
from tunewright.records import Report
from tunewright.report.files import read_report
from tunewright.store import RunFolder, read_json, write_atomic

CARD_FILE = "README.md"
PIPELINES = {
    "classify": "text-classification",
    "regress": "text-classification",
    "tag": "token-classification",
    "generate": "text-generation",
    "chat": "text-generation",
    "continue": "text-generation",
}


def write_model_card(folder: Path, run: RunFolder, base: Base, to: str, precision: str) -> None:
    """Write README.md into an exported folder."""
    report = read_report(run) if run.report_json.exists() else None
    card = read_json(run.card) if run.card.exists() else {}
    source = base.source.base or base.source
    licence = find_licence(source.path)
    parts = [
        _metadata(source.hub_id or source.reference, base.task, to, licence),
        _opening(source.hub_id or source.reference, base.task, to, precision),
        _scores(report),
        _data(card),
        _licence(source.hub_id or source.reference, licence),
        _limits(report),
    ]
    write_atomic(folder / CARD_FILE, "\n".join(part for part in parts if part))


def find_licence(folder: Path) -> str | None:
    """The licence that a base's own card or config names, or None."""
    readme = folder / "README.md"
    if readme.is_file():
        text = readme.read_text(encoding="utf-8", errors="replace")
        if text.startswith("---"):
            try:
                values = yaml.safe_load(text.split("---", 2)[1])
            except yaml.YAMLError:
                values = None
            if isinstance(values, Mapping) and values.get("license"):
                return str(values["license"])
    config = folder / "config.json"
    if config.is_file():
        found = json.loads(config.read_text(encoding="utf-8")).get("license")
        return str(found) if found else None
    return None


def _metadata(base: str, task: str | None, to: str, licence: str | None) -> str:
    values: dict[str, Any] = {
        "library_name": "peft" if to in ("adapter", "vllm") else "transformers",
        "base_model": base,
        "tags": ["tunewright"],
    }
    if licence:
        values["license"] = licence
    if task in PIPELINES:
        values["pipeline_tag"] = PIPELINES[task]
    return f"---\n{yaml.safe_dump(values, sort_keys=True).strip()}\n---\n"


def _opening(base: str, task: str | None, to: str, precision: str) -> str:
    return (
        f"# Tuned from {base}\n\nTask: {task}. Form: {to}, {precision}. Tuned with Tunewright; "
        "`parity.json` beside this file says how it was checked against the trained model.\n"
    )


def _scores(report: Report | None) -> str:
    if report is None:
        return ""
    metric = report.primary_metric
    lines = ["## Scores", "", f"| system | {metric} | 95 % interval | rows |", "|---|---|---|---|"]
    for result in report.results:
        score = result.metrics.get(metric)
        if score is not None:
            low, high = score.ci95
            lines.append(
                f"| {result.system} | {score.value:.4f} | {low:.4f} to {high:.4f} | {result.n} |"
            )
    lines += ["", *(f"- {sentence}" for sentence in report.because), ""]
    return "\n".join(lines)


def _data(card: Mapping[str, Any]) -> str:
    rows = card.get("rows") or {}
    if not rows:
        return ""
    counts = ", ".join(
        f"{figures.show_number(rows[side])} {side}"
        for side in ("train", "validation", "test")
        if rows.get(side)
    )
    lines = ["## Data", "", f"Rows: {counts}."]
    labels = card.get("labels") or []
    if labels:
        shown = ", ".join(map(str, labels[:20])) + (" ..." if len(labels) > 20 else "")
        lines.append(f"Labels ({len(labels)}): {shown}.")
    findings = [item for item in card.get("findings") or [] if item.get("severity") != "info"]
    lines += [f"- noticed: {item['message']}" for item in findings[:10]]
    return "\n".join([*lines, ""])


def _licence(base: str, licence: str | None) -> str:
    known = (
        f"{licence} (as its own card says)" if licence else "not stated in its files: look it up"
    )
    return (
        f"## Licence\n\nBase {base}: {known}. The tuned weights are derived from it and from the "
        "training rows; both terms apply.\n"
    )


def _limits(report: Report | None) -> str:
    verdict = f"The verdict of the run was: {report.verdict}. " if report else ""
    return (
        f"## Limits\n\n{verdict}Scores hold for rows like those of the test split. Other "
        "languages, topics and times were not measured.\n"
    )
