"""report.html: one self-contained page. What the template shows is made ready here.

The page asks nothing of the network: its policy forbids every request, and only the one style and
the one script whose hashes it names may act. A section without material is left out; material of
an unexpected shape counts as none.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from tunewright import figures
from tunewright.figures import known
from tunewright.records import Comparison, Report
from tunewright.report import charts
from tunewright.report.benefit import benefit_section
from tunewright.report.data import make_data_section
from tunewright.report.scores import direction, forests, metric_tick, result_group
from tunewright.report.shell import render_page, shorten
from tunewright.report.text import (
    cost_rows,
    group_by_split,
    order_results,
    verdict_word,
)
from tunewright.store import to_plain

MAX_ROWS = 60
VERDICTS = {
    None: ("calm", "·", "One system was measured; nothing was compared, so nothing is judged."),
    "ship": ("good", "✓", "Tuning helped, and the gain is beyond chance."),
    "more data": ("open", "…", "Not proven yet: more rows would settle it."),
    "do not tune": ("bad", "✕", "Tuning does not earn its place here."),
}
CHANGES = {"fixed": ("good", "▲", "better"), "broken": ("bad", "▼", "worse")}
LONG_TASKS = ("generate", "chat", "continue")


def make_page(report: Report) -> str:
    """The whole of report.html."""
    return render_page("report.html.j2", styles=("report.css", "benefit.css"), **_sections(report))


def _sections(report: Report) -> dict[str, Any]:
    details = to_plain(report.details)
    return {
        "report": report,
        "task": figures.TASKS.get(report.task, report.task),
        "verdict": VERDICTS[report.verdict],
        "headline": verdict_word(report).capitalize(),
        "tiles": _tiles(report),
        "metric": figures.metric_title(report.primary_metric),
        "direction": direction(report.primary_metric),
        "results": [result_group(report, split, rows) for split, rows in group_by_split(report)],
        "forests": forests(report),
        "curves": make_curves(report.primary_metric, details),
        "calibration": _calibration(details),
        "confusion": _confusion(details),
        "classes": _classes(details),
        "compact": report.task not in LONG_TASKS,
        "worst_rows": [_row_view(row) for row in _rows(details, "worst_rows")],
        "examples": [_example_view(row) for row in _rows(details, "examples")],
        "label_errors": [_row_view(row) for row in _rows(details, "probable_label_errors")],
        "forgetting": make_grid(to_plain(report.forgetting)),
        "data": make_data_section(details.get("card")),
        "warnings": _texts(details.get("warnings")),
        "costs": cost_rows(report),
        "benefit": short_benefit(details),
        "recipe": details.get("recipe") if isinstance(details.get("recipe"), str) else "",
        "derived": _rows(details, "derived", most=500),
        "environment": _pairs(details.get("environment")),
    }


def short_benefit(details: Mapping[str, Any]) -> dict[str, Any]:
    """The short form of `benefit`; {} where the recipe says nothing of its business."""
    worth = details.get("benefit")
    if not isinstance(worth, Mapping):
        return {}
    if "missing" in worth:
        return {"missing": str(worth["missing"])}
    return benefit_section(worth)


def _rows(details: Mapping[str, Any], key: str, most: int = MAX_ROWS) -> list[Mapping[str, Any]]:
    rows = details.get(key)
    if not isinstance(rows, list):
        return []
    return [row for row in rows if isinstance(row, Mapping)][:most]


def _texts(items: Any) -> list[str]:
    return [str(item) for item in items] if isinstance(items, list) else []


def _pairs(mapping: Any) -> list[tuple[str, str]]:
    if not isinstance(mapping, Mapping):
        return []
    return [
        (str(key).replace("_", " "), figures.show_plain(value)) for key, value in mapping.items()
    ]


def make_grid(mapping: Any) -> dict[str, Any] | None:
    """A mapping of mappings as a table, a flat mapping as pairs; None when there is nothing."""
    if not isinstance(mapping, Mapping) or not mapping:
        return None
    inner = {k: v for k, v in mapping.items() if isinstance(v, Mapping)}
    columns = list(dict.fromkeys(name for row in inner.values() for name in row))
    rows = [
        (str(name), [figures.show_plain(row.get(column)) for column in columns])
        for name, row in inner.items()
    ]
    flat = {k: v for k, v in mapping.items() if k not in inner}
    return {"columns": columns, "rows": rows, "pairs": _pairs(flat)}


def _tiles(report: Report) -> list[tuple[str, str, str]]:
    """(title, big figure, small print) beside the verdict."""
    metric = report.primary_metric
    tiles = []
    first = next((r for r in order_results(report) if metric in r.metrics), None)
    if first:
        score = first.metrics[metric]
        interval = figures.show_interval(metric, score.ci95)
        note = f"{interval} · {first.n:,} {first.split} rows".removeprefix(" · ")
        title = f"{figures.metric_title(metric)}, {figures.system_title(first.system)}"
        tiles.append((title, figures.show_value(metric, score.value), note))
    rival = closest_rival(report)
    if rival:
        interval = figures.show_delta_interval(metric, rival.ci95)
        title = f"against {figures.system_title(rival.b)}"
        note = f"{interval} · {rival.verdict}".removeprefix(" · ")
        tiles.append((title, figures.show_delta(metric, rival.delta), note))
    for title, value in (
        ("time", figures.show_seconds(report.cost.seconds.measured)),
        ("peak memory", figures.show_bytes(report.cost.peak_memory_bytes.measured)),
    ):
        if value != figures.NOTHING:
            tiles.append((title, value, "measured"))
    return tiles


def closest_rival(report: Report) -> Comparison | None:
    """The comparison of the tuned model on the deciding metric that is hardest to win."""
    order = ("worse", "cannot tell", "better")
    against = [
        item for item in report.comparisons
        if item.a == "tuned" and item.metric == report.primary_metric and known(item.delta)
    ]  # fmt: skip
    return min(against, key=lambda c: (order.index(c.verdict), abs(c.delta)), default=None)


def make_curves(metric: str | None, details: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Figures of the training: loss, the deciding metric (where it is known), the learning rate.

    details: `steps` and `evaluations`, as their files in the run folder hold them.
    """
    steps = _rows(details, "steps", most=10_000_000)
    evaluations = _rows(details, "evaluations", most=100_000)
    raw = charts.thin_out(_points(steps, "loss"))
    lines = [
        charts.Line("each step", raw, "s0", faint=True),
        charts.Line("training loss", charts.smooth(raw), "s0"),
        charts.Line(
            "validation loss", charts.thin_out(_points(evaluations, "loss"), 80), "s2", True
        ),
    ]
    found = [_curve("Loss", [line for line in lines if line.points], zero=True)]
    if metric is not None:
        found.append(_metric_curve(metric, evaluations))
    rate = charts.Line("learning rate", charts.thin_out(_points(steps, "learning_rate")), "s3")
    found.append(_curve("Learning rate", [rate] if rate.points else [], zero=True))
    return [figure for figure in found if figure]


def _metric_curve(metric: str, evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    points = [
        (row.get("step"), row["metrics"].get(metric), row.get("best") is True)
        for row in evaluations
        if isinstance(row.get("metrics"), Mapping)
    ]
    usable = [(float(x), float(y), best) for x, y, best in points if known(x) and known(y)]
    best = next(((x, y) for x, y, is_best in reversed(usable) if is_best), None)
    title = f"Validation {figures.metric_title(metric)}"
    unit = ", %" if figures.is_share(metric) else ""
    path = charts.thin_out([(x, y) for x, y, _ in usable], 80)
    figure = _curve(
        title + unit,
        [charts.Line(title, path, "s1", dots=True)] if path else [],
        lambda value: figures.show_value(metric, value),
        tick=lambda value: metric_tick(metric, value),
        mark=best,
    )  # fmt: skip
    if figure and best:
        figure["note"] = (
            f"Best: {figures.show_value(metric, best[1])} at step {figures.show_number(best[0])} "
            "(ringed); these weights were kept."
        )
    return figure


def _curve(
    title: str,
    lines: list[charts.Line],
    write: Callable[[float], str] = figures.show_number,
    **options: Any,
) -> dict[str, Any] | None:
    if not lines:
        return None
    named = [line for line in lines if not line.faint]
    spoken = "; ".join(
        f"{line.name} from {write(line.points[0][1])} to {write(line.points[-1][1])}"
        for line in named
    )
    svg = charts.line_chart(f"{title} by step: {spoken}", lines, write=write, **options)
    return {"title": title, "svg": svg, "legend": [(line.name, line.tone) for line in named],
            "note": ""}  # fmt: skip


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> list[charts.Point]:
    pairs = [(row.get("step"), row.get(key)) for row in rows]
    return [(float(x), float(y)) for x, y in pairs if known(x) and known(y)]


def _calibration(details: Mapping[str, Any]) -> dict[str, Any] | None:
    calibration = details.get("calibration")
    if not isinstance(calibration, Mapping):
        return None
    bins = _rows(calibration, "bins")
    used = [b for b in bins if known(b.get("confidence")) and known(b.get("accuracy"))]
    if not used:
        return None
    ece, before = calibration.get("ece"), calibration.get("ece_before")
    lean = sum((b["confidence"] - b["accuracy"]) * (b.get("count") or 0) for b in used)
    size = sum(b.get("count") or 0 for b in used) or 1
    manner = "too sure of itself" if lean / size > 0.005 else "too modest"
    says = manner if abs(lean / size) > 0.005 else "about as sure as it is right"
    title = f"Reliability diagram: accuracy against confidence in {len(used)} bins; {says}"
    return {
        "svg": charts.reliability(used, title),
        "ece": figures.show_number(ece) if known(ece) else "",
        "temperature": figures.show_number(calibration.get("temperature")),
        "before": figures.show_number(before) if known(before) else "",
        "says": says,
        "bins": [
            (_bin_ends(b),
             figures.show_number(b.get("count")), f"{b['confidence']:.3f}",
             f"{b['accuracy']:.3f}")
            for b in used
        ],
    }  # fmt: skip


def _bin_ends(item: Mapping[str, Any]) -> str:
    low, high = item.get("lo"), item.get("hi")
    return f"{low:.3g} to {high:.3g}" if known(low) and known(high) else ""


def _confusion(details: Mapping[str, Any]) -> dict[str, Any] | None:
    confusion = details.get("confusion")
    if not isinstance(confusion, Mapping):
        return None
    labels = [shorten(label, 120) for label in confusion.get("labels") or ()]
    matrix = confusion.get("matrix") or []
    if len(labels) < 2 or len(matrix) != len(labels) or any(len(r) != len(labels) for r in matrix):
        return None
    pairs = sorted(
        (
            (row[j], i, j)
            for i, row in enumerate(matrix)
            for j in range(len(row))
            if i != j and row[j]
        ),
        key=lambda item: (-item[0], item[1], item[2]),
    )
    keep = _classes_to_draw(matrix, [(i, j) for _, i, j in pairs])
    small = [[matrix[i][j] for j in keep] for i in keep]
    order = [keep[i] for i in charts.order_classes(small)]
    title = f"Confusion matrix of {len(order)} classes; rows are true labels, columns predictions"
    return {
        "svg": charts.heat_map(
            [labels[i] for i in order], [[matrix[i][j] for j in order] for i in order], title
        ),
        "left_out": len(labels) - len(order),
        "sorted": len(order) > 12,
        "wrong": sum(count for count, _, _ in pairs),
        "top": [(labels[i], labels[j], n, sum(matrix[i])) for n, i, j in pairs[:10]],
    }


def _classes_to_draw(
    matrix: Sequence[Sequence[int]], pairs: Iterable[tuple[int, int]]
) -> list[int]:
    """All classes, or the ones in most mistakes where there are too many to draw."""
    if len(matrix) <= charts.MAX_CLASSES:
        return list(range(len(matrix)))
    keep: dict[int, None] = {}
    for i, j in pairs:
        keep.update({i: None, j: None})
        if len(keep) >= charts.MAX_CLASSES * 0.6:
            break
    return sorted(keep) if len(keep) > 1 else list(range(charts.MAX_CLASSES))


def _classes(details: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "label": str(row.get("label", "")),
            "n": row.get("n"),
            "train_rows": row.get("train_rows"),
            "bar": charts.bar(row.get("f1")),
            "figures": [(row.get(k), figures.show_value(k, row.get(k)))
                        for k in ("f1", "precision", "recall")],
            "confused_with": figures.show_output(row.get("confused_with")),
        }
        for row in _rows(details, "worst_classes")
    ]  # fmt: skip


def _row_view(row: Mapping[str, Any]) -> dict[str, Any]:
    text = str(row.get("input") or "")
    confidence = row.get("confidence")
    view = {
        key: figures.show_output(row.get(key), text)
        for key in ("reference", "prediction", "label", "suggested")
    }
    return {
        **view,
        "place": str(row.get("place") or row.get("id") or ""),
        "input": text,
        "confidence": f"{confidence:.3f}" if known(confidence) else "",
        "sort": confidence if known(confidence) else "",
    }


def _example_view(row: Mapping[str, Any]) -> dict[str, Any]:
    text = str(row.get("input") or "")
    reference = shorten(figures.show_output(row.get("reference"), text))
    answers = [_answer_view(name, row.get(name), reference, text) for name in ("base", "tuned")]
    change = CHANGES.get(str(row.get("change")))
    return {"input": text, "reference": reference, "both": answers, "change": change}


def _answer_view(name: str, answer: Any, reference: str, text: str) -> dict[str, Any]:
    plain = shorten(figures.show_output(answer, text))
    return {
        "name": name,
        "known": answer is not None,
        "plain": plain,
        "text": mark_missing(plain, reference),
        "exact": plain.strip() == reference.strip(),
        "empty": not plain.strip(),
    }


def mark_missing(answer: str, reference: str) -> Markup:
    """The answer with the words marked that the reference does not have at that point."""
    words, wanted = re.findall(r"\s+|\S+", answer), re.findall(r"\s+|\S+", reference)
    out = []
    matcher = difflib.SequenceMatcher(None, words, wanted, autojunk=False)
    for kind, start, end, _, _ in matcher.get_opcodes():
        part = "".join(words[start:end])
        pieces = re.split(r"(^\s+|\s*\n\s*|\s+$)", part) if kind != "equal" else [part]
        for piece in pieces:
            marked = kind != "equal" and piece.strip()
            out.append(Markup("<mark>{}</mark>" if marked else "{}").format(piece))  # noqa: S704
    return Markup("").join(out)
