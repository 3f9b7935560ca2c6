"""The data card: what went in, how long, which labels, what was noticed, what was dropped."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tunewright.data.prepare import Prepared
from tunewright.records import Example, Finding, Span
from tunewright.store import to_plain

NUM_BINS = 20
SIDES = ("train", "validation", "test")


def make_card(
    prepared: Prepared, token_lengths: Mapping[str, Sequence[int]] | None = None
) -> dict[str, Any]:
    """What card.json holds, as plain JSON values.

    token_lengths: tokens of each row by split; adds their statistics and a histogram.
    Keys: task, shape, columns, labels, multi_label, reasons, rows (read, kept and dropped counts),
    splits (counts, lengths in characters and words, label or target table), findings, dropped
    (one entry a row: id, place, why).
    """
    layout = prepared.layout
    columns = {key: value for key, value in layout.columns.model_dump(mode="json").items() if value}
    return {
        "task": layout.task,
        "shape": layout.shape,
        "columns": columns,
        "labels": list(layout.labels),
        "multi_label": layout.multi_label,
        "reasons": list(layout.reasons),
        "rows": _count_rows(prepared),
        "splits": {
            side: _describe_side(getattr(prepared.splits, side), (token_lengths or {}).get(side))
            for side in SIDES
        },
        "findings": [_plain_finding(finding) for finding in prepared.findings],
        "dropped": [
            {"id": row, "place": place, "why": finding.kind}
            for finding in prepared.findings
            if finding.dropped
            for row, place in zip(finding.rows, finding.places, strict=True)
        ],
    }


def with_token_lengths(
    card: Mapping[str, Any], token_lengths: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """The card with statistics and a histogram of the tokens of each row, by split."""
    splits = {name: dict(side) for name, side in card["splits"].items()}
    for name, lengths in token_lengths.items():
        splits[name]["tokens"] = describe_lengths(lengths)
        splits[name]["token_histogram"] = histogram(lengths)
    return {**card, "splits": splits}


def describe_lengths(lengths: Sequence[int]) -> dict[str, float] | None:
    """min, mean, median, p95 and max; None for no lengths."""
    if not lengths:
        return None
    ranked = sorted(lengths)
    return {
        "min": ranked[0],
        "mean": round(statistics.fmean(ranked), 2),
        "median": statistics.median(ranked),
        "p95": ranked[min(len(ranked) - 1, int(0.95 * len(ranked)))],
        "max": ranked[-1],
        "total": sum(ranked),
    }


def histogram(values: Sequence[float], num_bins: int = NUM_BINS) -> dict[str, list[float]] | None:
    """Equal bins: `edges` (one more than counts) and `counts`; None for no values."""
    if not values:
        return None
    low, high = min(values), max(values)
    width = (high - low) / num_bins or 1.0
    counts: list[float] = [0] * num_bins
    for value in values:
        counts[min(num_bins - 1, int((value - low) / width))] += 1
    return {"edges": [round(low + width * i, 6) for i in range(num_bins + 1)], "counts": counts}


def _count_rows(prepared: Prepared) -> dict[str, Any]:
    splits = prepared.splits
    dropped: Counter[str] = Counter()
    for finding in prepared.findings:
        if finding.dropped:
            dropped[finding.kind] += len(finding.rows)
    return {
        "read": dict(prepared.num_read),
        **{side: len(getattr(splits, side)) for side in SIDES},
        "dropped": dict(sorted(dropped.items())),
    }


def _describe_side(
    examples: Sequence[Example], token_lengths: Sequence[int] | None
) -> dict[str, Any]:
    inputs = [example.input for example in examples]
    outputs = [example.output for example in examples if isinstance(example.output, str)]
    side: dict[str, Any] = {
        "rows": len(examples),
        "groups": len({e.group for e in examples if e.group is not None}) or None,
        "input_chars": describe_lengths([len(text) for text in inputs]),
        "input_words": describe_lengths([len(text.split()) for text in inputs]),
    }
    if any(example.messages for example in examples):
        side["output_chars"] = describe_lengths([len(text) for text in outputs])
        side["output_words"] = describe_lengths([len(text.split()) for text in outputs])
        side["references"] = sum(len(example.references) or 1 for example in examples)
    else:
        side["labels"] = _label_table(examples)
        side["target"] = _describe_target(examples)
    if token_lengths is not None:
        side["tokens"] = describe_lengths(token_lengths)
        side["token_histogram"] = histogram(token_lengths)
    return side


def _label_table(examples: Sequence[Example]) -> dict[str, int] | None:
    """Rows (classify) or spans (tag) by label, commonest first; None where there are no labels."""
    counts: Counter[str] = Counter()
    for example in examples:
        if isinstance(example.output, str):
            counts[example.output] += 1
        elif isinstance(example.output, tuple):
            counts.update(i.label if isinstance(i, Span) else i for i in example.output)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))) or None


def _describe_target(examples: Sequence[Example]) -> dict[str, Any] | None:
    values = [e.output for e in examples if isinstance(e.output, (int, float))]
    if not values:
        return None
    return {
        "min": min(values),
        "mean": statistics.fmean(values),
        "median": statistics.median(values),
        "max": max(values),
        "histogram": histogram(values),
    }


def _plain_finding(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind,
        "severity": finding.severity,
        "message": finding.message,
        "count": len(finding.rows),
        "rows": list(finding.rows),
        "places": list(finding.places),
        "dropped": finding.dropped,
        **{
            name: value
            for name in ("scores", "suggestions", "counterparts", "clusters", "details")
            if (value := to_plain(getattr(finding, name)))
        },
    }
