"""The data card: what went in, how long, which labels, what was noticed, what was dropped."""

from __future__ import annotations

import statistics
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.data.prepare import Prepared
from tunewright.records import Example, Finding, Span
from tunewright.store import to_plain

NUM_BINS = 20
LENGTHS = ("input_chars", "input_words", "output_chars", "output_words")
Ints = NDArray[np.int64]
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


def describe_lengths(lengths: Sequence[int] | Ints) -> dict[str, float] | None:
    """min, mean, median, p95 and max; None for no lengths."""
    ranked = np.sort(np.asarray(lengths, dtype=np.int64))
    if not ranked.size:
        return None
    size, total = int(ranked.size), int(ranked.sum())
    low, high = int(ranked[(size - 1) // 2]), int(ranked[size // 2])
    return {
        "min": int(ranked[0]),
        "mean": round(total / size, 2),
        "median": high if size % 2 else (low + high) / 2,
        "p95": int(ranked[min(size - 1, int(0.95 * size))]),
        "max": int(ranked[-1]),
        "total": total,
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
    lengths = {name: array("q") for name in LENGTHS}
    groups, references, talks = set(), 0, False
    for example in examples:  # one look: rows may lie in a file
        lengths["input_chars"].append(len(example.input))
        lengths["input_words"].append(len(example.input.split()))
        if isinstance(example.output, str):
            lengths["output_chars"].append(len(example.output))
            lengths["output_words"].append(len(example.output.split()))
        groups.add(example.group)
        references += len(example.references) or 1
        talks = talks or bool(example.messages)
    described = {name: describe_lengths(np.array(found)) for name, found in lengths.items()}
    side: dict[str, Any] = {
        "rows": len(examples),
        "groups": len(groups - {None}) or None,
        "input_chars": described["input_chars"],
        "input_words": described["input_words"],
    }
    if talks:
        side["output_chars"] = described["output_chars"]
        side["output_words"] = described["output_words"]
        side["references"] = references
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
