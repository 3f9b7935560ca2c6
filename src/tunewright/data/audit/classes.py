"""Is every class large enough to learn and to measure, and are they spread alike over the splits?

Counting alone; whether single labels are right is asked in label_errors.py.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from tunewright.data.audit.material import AuditMaterial, count, list_some, name_rows
from tunewright.records import Example, Finding, Span, SplitName

FEWEST_TO_LEARN = 10
"""banking77 with 10 rows a class reaches 85 % where all rows reach 94 %; below, it falls fast."""
WIDEST_INTERVAL = 0.35
"""A class's recall is called measurable when its 95 % interval is at most this wide either way."""
SKEW = 10.0


def find_class_sizes(
    material: AuditMaterial,
    *,
    fewest_to_learn: int = FEWEST_TO_LEARN,
    skew: float = SKEW,
) -> list[Finding]:
    """Classes with too few rows to learn, or too few to measure, and imbalance (classify, tag).

    Kinds: class_too_small (below fewest_to_learn training rows), class_not_measurable (recall at
    .5 would have a 95 % interval wider than .35 either way), class_imbalance (commonest at least
    `skew` times as frequent as the rarest).
    """
    train = count_labels(material.train)
    if material.layout.task not in ("classify", "tag") or len(train) < 2:
        return []
    findings = []
    small = sorted((n, label) for label, n in train.items() if n < fewest_to_learn)
    if small:
        names = [f"{label} ({n})" for n, label in small]
        chosen = {label for _, label in small}
        rows = [row for row in material.train if chosen & labels_in(row)]
        message = (
            f"{count(len(small), 'label')} of {len(train)} with fewer than {fewest_to_learn} "
            f"training rows, too few to learn: {list_some(names)}; add rows or merge labels"
        )
        details = {"labels": {label: n for n, label in small}}
        findings.append(name_rows("class_too_small", "warn", message, rows, details=details))
    findings += _imbalance(train, skew, material.train)
    findings += _not_measurable(train, material)
    return findings


def find_label_shift(material: AuditMaterial, *, p_value: float = 0.001) -> list[Finding]:
    """Splits whose labels are spread unlike training's: chi-square over pooled rare labels.

    Kind label_shift; its details give p, the total variation distance and the labels that differ
    most. Silent below a distance of .05: with many rows every trifle is significant.
    """
    train = count_labels(material.train)
    if material.layout.task not in ("classify", "tag") or not train:
        return []
    findings = []
    others: tuple[SplitName, ...] = ("validation", "test")
    for side in others:
        held = count_labels(material.side(side))
        if not held:
            continue
        p, distance = compare_counts(train, held)
        if p >= p_value or distance < 0.05:
            continue
        moved = _largest_moves(train, held)
        message = (
            f"labels of {side} are spread unlike training's (distance {distance:.2f}, p {p:.1g}): "
            f"{list_some(moved, 5)}; a score on {side} says little about what training saw"
        )
        details = {"split": side, "p_value": p, "distance": round(distance, 4)}
        findings.append(Finding("label_shift", "warn", message, details=details))
    return findings


def count_labels(rows: Sequence[Example]) -> Counter[str]:
    """Rows by label; a row with several labels counts for each."""
    counts: Counter[str] = Counter()
    for row in rows:
        if not row.messages:
            counts.update(labels_in(row))
    return counts


def labels_in(row: Example) -> set[str]:
    """The labels that a row carries; for tag the labels of its spans."""
    if isinstance(row.output, str):
        return {row.output}
    if isinstance(row.output, tuple):
        return {item.label if isinstance(item, Span) else item for item in row.output}
    return set()


def compare_counts(first: Counter[str], second: Counter[str]) -> tuple[float, float]:
    """(p of a chi-square test of homogeneity, total variation distance in [0, 1]).

    Labels with an expected count below 5 in the smaller sample are pooled, Cochran's rule.
    """
    names = sorted({*first, *second})
    table = np.array([[first[name] for name in names], [second[name] for name in names]], float)
    totals = table.sum(axis=1)
    distance = float(np.abs(table[0] / totals[0] - table[1] / totals[1]).sum() / 2)
    expected = table.sum(axis=0) * totals.min() / totals.sum()
    rare = expected < 5
    if rare.any():
        table = np.hstack([table[:, ~rare], table[:, rare].sum(axis=1, keepdims=True)])
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2:
        return 1.0, distance
    from scipy.stats import chi2

    wanted = np.outer(totals, table.sum(axis=0)) / totals.sum()
    statistic = float(((table - wanted) ** 2 / wanted).sum())
    return float(chi2.sf(statistic, table.shape[1] - 1)), distance


def _imbalance(train: Counter[str], skew: float, rows: Sequence[Example]) -> list[Finding]:
    (most, largest), (least, smallest) = train.most_common()[0], train.most_common()[-1]
    ratio = largest / smallest
    if ratio < skew:
        return []
    message = (
        f"classes are uneven: {most} has {largest:,} training rows, {least} {smallest:,} "
        f"({ratio:.0f} to 1); read macro F1 beside accuracy"
    )
    details = {"ratio": round(ratio, 2), "largest": most, "smallest": least}
    rarest = [row for row in rows if least in labels_in(row)]
    return [name_rows("class_imbalance", "info", message, rarest, details=details)]


def _not_measurable(train: Counter[str], material: AuditMaterial) -> list[Finding]:
    held = count_labels(material.test)
    if not held:
        return []
    needed = math.ceil(0.25 * (1.96 / WIDEST_INTERVAL) ** 2)
    few = sorted((held[label], label) for label in train if held[label] < needed)
    if not few:
        return []
    names = [f"{label} ({n})" for n, label in few]
    message = (
        f"{count(len(few), 'label')} of {len(train)} with fewer than {needed} test rows: recall of "
        f"these cannot be measured to within {WIDEST_INTERVAL:.0%}: {list_some(names)}"
    )
    details = {"needed": needed, "labels": {label: n for n, label in few}}
    return [Finding("class_not_measurable", "info", message, details=details)]


def _largest_moves(first: Counter[str], second: Counter[str]) -> list[str]:
    total, held = sum(first.values()), sum(second.values())
    moves = {name: second[name] / held - first[name] / total for name in {*first, *second}}
    ranked = sorted(moves, key=lambda name: (-abs(moves[name]), name))
    return [f"{name} {first[name] / total:.1%} to {second[name] / held:.1%}" for name in ranked]
