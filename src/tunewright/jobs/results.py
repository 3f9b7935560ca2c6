"""What a run folder says of a job: steps as they come, the table of results, the outcome."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewright.store import RunFolder, read_json, read_jsonl

COLUMNS = (
    "step", "train_loss", "train_mean_token_accuracy", "valid_loss", "valid_mean_token_accuracy",
    "full_valid_loss", "full_valid_mean_token_accuracy",
)  # fmt: skip
"""As clients know them; what is not measured stays empty."""
MAX_STEP_EVENTS = 200


class Tail:
    """New lines of a growing JSONL file. A file that shrank is read from its start."""

    def __init__(self, path: Path) -> None:
        self.path, self.at = path, 0

    def read(self) -> list[Any]:
        """Whole lines that came since the last call."""
        try:
            size = self.path.stat().st_size
            if size < self.at:
                self.at = 0
            if size == self.at:
                return []
            with open(self.path, "rb") as file:
                file.seek(self.at)
                data = file.read(1 << 22)
        except OSError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self.at += len(whole)
        rows = []
        for line in whole.splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:  # rewritten under our eyes; the next look starts anew
                self.at = 0
        return rows


def step_events(
    steps: Sequence[Mapping[str, Any]],
    evaluations: Sequence[Mapping[str, Any]],
    total: int | None,
) -> list[tuple[str, Mapping[str, Any]]]:
    """An event for each step that is worth telling, thinned for long runs."""
    stride = max(1, (total or 0) // MAX_STEP_EVENTS)
    judged = {int(row["step"]): row for row in evaluations}
    events: list[tuple[str, Mapping[str, Any]]] = []
    for row in steps:
        step = int(row["step"])
        if step % stride and step != total and step not in judged:
            continue
        data = {**metrics_of(row, judged.get(step)), "total_steps": total}
        text = f"Step {step}/{total or '?'}: training loss={row['loss']:.2f}"
        if "valid_loss" in data:
            text += f", validation loss={data['valid_loss']:.2f}"
        events.append((text, data))
    return events


def metrics_of(step: Mapping[str, Any], evaluation: Mapping[str, Any] | None) -> dict[str, Any]:
    """Metrics of a step under the names that clients know; only those that were measured.

    Every look at validation takes all of its rows, so valid_loss is full_valid_loss too.
    """
    found: dict[str, Any] = {"step": int(step["step"]), "train_loss": step["loss"]}
    if evaluation is not None and evaluation.get("loss") is not None:
        found["valid_loss"] = found["full_valid_loss"] = evaluation["loss"]
    return found


def checkpoint_metrics(run: RunFolder, steps: Sequence[int]) -> list[dict[str, Any]]:
    """Metrics at these steps."""
    rows = {int(row["step"]): row for row in read_jsonl(run.steps)}
    judged = {int(row["step"]): row for row in read_jsonl(run.evaluations)}
    return [metrics_of(rows[step], judged.get(step)) for step in steps]


def results_csv(run: RunFolder) -> bytes:
    """The table of results: one row for each step."""
    judged = {int(row["step"]): row for row in read_jsonl(run.evaluations)}
    out = io.StringIO()
    table = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
    table.writeheader()
    for row in read_jsonl(run.steps):
        table.writerow(metrics_of(row, judged.get(int(row["step"]))))
    return out.getvalue().encode()


def outcome_of(run: RunFolder) -> dict[str, Any]:
    """Verdict, reasons, scores and cost, from the report."""
    report = read_json(run.report_json)
    return {
        "verdict": report.get("verdict"),
        "because": report.get("because") or [],
        "results": report.get("results") or [],
        "comparisons": report.get("comparisons") or [],
        "cost": report.get("cost"),
    }


def trained_tokens(run: RunFolder) -> int:
    """Tokens that were learned from, over all epochs."""
    rows = read_jsonl(run.steps)
    return int(rows[-1]["tokens"]) if rows else 0
