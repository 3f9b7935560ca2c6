"""The report of a run: the record as JSON and back, and the three files that a run leaves.

The page is drawn in report/page.py, the terminal and Markdown text in report/text.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewright.errors import RunError
from tunewright.records import Amount, Comparison, Cost, Report, Result, Score
from tunewright.report.page import make_page
from tunewright.report.text import make_markdown, print_report
from tunewright.store import RunFolder, read_json, to_plain, write_atomic, write_json

__all__ = ["make_report_json", "print_report", "read_report", "write_report"]

COSTS = ("seconds", "tokens", "peak_memory_bytes", "energy_kwh", "usd")
MAX_STEPS = 2000
VERDICTS = ("ship", "more data", "do not tune", None)


def write_report(folder: RunFolder, report: Report) -> None:
    """Write report.md, report.html and report.json, each atomically; the last says "finished".

    Raises DiskFull or RunError naming the file that could not be written.
    """
    write_atomic(folder.report_md, make_markdown(report))
    write_atomic(folder.report_html, make_page(report))
    write_json(folder.report_json, make_report_json(report))


def make_report_json(report: Report) -> dict[str, Any]:
    """The content of report.json: the contract's keys first, then what only the pages need.

    Numbers that are not finite become null.
    """
    document = {
        "task": report.task,
        "base_model": report.base_model,
        "results": [_result_json(result) for result in report.results],
        "comparisons": list(report.comparisons),
        "forgetting": report.forgetting,
        "cost": report.cost,
        "verdict": report.verdict,
        "because": list(report.because),
        "primary_metric": report.primary_metric,
        "next_steps": list(report.next_steps),
        "details": _keep_curves_small(report.details),
    }
    plain: dict[str, Any] = to_plain(document)
    return plain


def _keep_curves_small(details: Mapping[str, Any]) -> dict[str, Any]:
    """Details with at most MAX_STEPS steps, evenly taken, the last among them.

    Every step stands in steps.jsonl; a long run would make report.json needlessly large.
    """
    steps = details.get("steps")
    if not isinstance(steps, Sequence) or len(steps) <= MAX_STEPS:
        return dict(details)
    every = math.ceil(len(steps) / MAX_STEPS)
    return {**details, "steps": list(steps[::-1][::every][::-1])}


def _result_json(result: Result) -> dict[str, Any]:
    metrics = {
        name: {"value": score.value, "ci95": list(score.ci95)}
        for name, score in result.metrics.items()
    }
    return {"system": result.system, "split": result.split, "n": result.n, "metrics": metrics}


def read_report(path: Path | RunFolder) -> Report:
    """Read a report back from report.json or from the run folder that holds it.

    Figures that were null come back as nan. Raises RunError when the file is missing, not JSON, or
    not a report.
    """
    folder = path if isinstance(path, RunFolder) else RunFolder(path)
    file = folder.report_json if folder.path.is_dir() else folder.path
    document = read_json(file)
    try:
        return _make_report(document)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{file}: not a Tunewright report ({type(error).__name__}: {error}); "
            "run `tunewright evaluate` to write it again"
        ) from error


def _make_report(document: Mapping[str, Any]) -> Report:
    if document["verdict"] not in VERDICTS:
        raise ValueError(f"unknown verdict {document['verdict']!r}")
    results = tuple(_read_result(item) for item in document["results"])
    first = next((name for result in results for name in result.metrics), "")
    return Report(
        task=str(document["task"]),
        base_model=str(document["base_model"]),
        primary_metric=document.get("primary_metric") or first,
        results=results,
        comparisons=tuple(_read_comparison(item) for item in document["comparisons"]),
        cost=_read_cost(document["cost"]),
        verdict=document["verdict"],
        because=tuple(map(str, document["because"])),
        next_steps=tuple(map(str, document.get("next_steps") or ())),
        forgetting=document.get("forgetting"),
        details=dict(document.get("details") or {}),
    )


def _read_result(item: Mapping[str, Any]) -> Result:
    n = int(item["n"])
    metrics = {
        name: Score(name, _number(score["value"]), _interval(score["ci95"]), n)
        for name, score in item["metrics"].items()
    }
    return Result(str(item["system"]), str(item["split"]), n, metrics)


def _read_comparison(item: Mapping[str, Any]) -> Comparison:
    return Comparison(
        a=str(item["a"]),
        b=str(item["b"]),
        metric=str(item["metric"]),
        delta=_number(item["delta"]),
        ci95=_interval(item["ci95"]),
        p_value=_number(item["p_value"]),
        test=str(item["test"]),
        n=int(item["n"]),
        minimum_detectable=_number(item["minimum_detectable"]),
        verdict=item["verdict"],
    )


def _read_cost(item: Mapping[str, Any]) -> Cost:
    amounts = {name: item.get(name) or {} for name in COSTS}
    return Cost(
        **{
            name: Amount(amount.get("forecast"), amount.get("measured"))
            for name, amount in amounts.items()
        }
    )


def _interval(ends: Any) -> tuple[float, float]:
    low, high = ends
    return _number(low), _number(high)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
