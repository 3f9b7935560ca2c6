"""Test and validation rows that training has all but seen: the review tier.

Rows equal to a held-out row but for case, space and punctuation were removed from training before
(data/split.py). What is left here may be chance, in a domain of set phrases often is, so nothing
is removed: rows are listed closest first, with the score with and without them.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.data.audit.buckets import band_keys, pack, pairs_across, unpack
from tunewright.data.audit.closeness import closeness
from tunewright.data.audit.material import SIDES, AuditMaterial, count, name_rows
from tunewright.data.audit.near import distinct_rows
from tunewright.data.audit.shingles import Ints, UInts, sign
from tunewright.records import Example, Finding, Prediction, SplitName

Metric = Callable[[Sequence[Prediction]], float]
CLOSEST = 0.55
"""Measured on banking77: two typos .9, a word dropped .9, a greeting added 1.0 of planted leaks,
with fewer than 400 pairs that nobody planted (bench/results/leaks.json has the curve)."""
_SIZE = 3
_NUM_VALUES, _ROWS_PER_BAND = 126, 3
"""42 bands of 3: pairs of Jaccard index .4 meet with a probability of .94, of .5 with .997."""
_LOWEST_AGREEMENT = 0.25
_MOST_IN_BUCKET = 100_000
_MOST_PARTNERS = 100
_MOST_HELD = 10_000
_CHUNK = 100_000
MEANT_ALIKE = 0.97


def find_near_leaks(
    material: AuditMaterial,
    *,
    closest: float = CLOSEST,
    meant_alike: float = MEANT_ALIKE,
    metric: Metric | None = None,
) -> list[Finding]:
    """Training rows that are a held-out row but for typos, a word, or a greeting; kind near_leak.

    closest: closeness from which a pair is listed; lower finds more and lists more by chance.
    meant_alike: cosine of embeddings, where there are some. metric: what is compared with and
    without the suspects, for material.predictions; the share of right answers by default.
    """
    findings = []
    for side in SIDES[1:]:
        if not material.train or not material.side(side):
            continue
        pairs = near_leaks(material, side, closest=closest, meant_alike=meant_alike)
        if pairs:
            findings.append(_tell(material, side, pairs, metric or share_right))
    return findings


def near_leaks(
    material: AuditMaterial,
    side: SplitName,
    *,
    closest: float = CLOSEST,
    meant_alike: float = MEANT_ALIKE,
) -> list[tuple[Example, Example, float]]:
    """(training row, held-out row, closeness), closest first; each pair of different texts once."""
    rows, held = material.train, _some(material.side(side))
    numbers, texts = distinct_rows(rows)
    held_numbers, held_texts = distinct_rows(held)
    if not texts or not held_texts:
        return []
    with material.journal.progress(f"comparing training with {side}", 1.0) as advance:
        candidates = candidate_pairs(held_texts, texts, material.seed)
        advance(0.5, f"{len(candidates):,} pairs to look at")
        scores = closeness(held_texts, texts, candidates)
        advance(1.0, "")
    near = np.flatnonzero(scores >= closest)
    found = {(int(candidates[n, 0]), int(candidates[n, 1])): float(scores[n]) for n in near}
    whole = len(held) == len(material.side(side))
    for i, j, cosine in _by_meaning(material, side, numbers, held_numbers, meant_alike) * whole:
        found.setdefault((i, j), cosine)
    ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return [(rows[int(numbers[j])], held[int(held_numbers[i])], score) for (i, j), score in ranked]


def _some(held: Sequence[Example]) -> Sequence[Example]:
    """The held-out rows that are looked at: all, or as many as time allows, chosen by content."""
    if len(held) <= _MOST_HELD:
        return held
    chosen = set(heapq.nsmallest(_MOST_HELD, (row.id for row in held)))
    return [row for row in held if row.id in chosen]


def candidate_pairs(
    first: Sequence[str], second: Sequence[str], seed: int, chunk: int = _CHUNK
) -> Ints:
    """(P, 2) numbers of texts in first and second that share enough character 3-grams.

    chunk: texts of second that are looked at together, so that a million take no more memory.
    """
    known = sign(first, _SIZE, _NUM_VALUES, seed)
    kept: Ints = np.zeros((0, 2), dtype=np.int64)
    agreed = np.zeros(0)
    for begin in range(0, len(second), chunk):
        signature = np.concatenate(
            [known, sign(second[begin : begin + chunk], _SIZE, _NUM_VALUES, seed)], axis=1
        )
        pairs, agreement = _agreeing(signature, len(first))
        pairs = np.concatenate([kept, pairs + np.array([0, begin])])
        agreed = np.concatenate([agreed, agreement])
        chosen = most_alike(pairs[:, 0], agreed)
        kept, agreed = pairs[chosen], agreed[chosen]
    return kept


def _agreeing(signature: UInts, num_first: int) -> tuple[Ints, NDArray[np.float64]]:
    """(pairs that share a band, their agreement in [0, 1]); the second number counts from 0."""
    marks = signature.astype(np.uint16).T.copy()
    seen = np.zeros(0, dtype=np.uint64)
    for keys in band_keys(signature, _ROWS_PER_BAND):
        pairs = pairs_across(keys, num_first, _MOST_IN_BUCKET)
        seen = np.union1d(seen, pack(pairs))
    pairs = unpack(seen)
    agreement = np.empty(len(pairs))
    for begin in range(0, len(pairs), 1 << 16):
        part = pairs[begin : begin + (1 << 16)]
        agreement[begin : begin + len(part)] = (marks[part[:, 0]] == marks[part[:, 1]]).mean(axis=1)
    return pairs - np.array([0, num_first]), agreement


def most_alike(owners: Ints, agreement: NDArray[np.float64]) -> Ints:
    """Numbers of the pairs that agree enough, at most 100 for each owner, the most alike first.

    In a domain of set phrases every row shares bands with thousands; its twin is among the nearest.
    """
    enough = np.flatnonzero(agreement >= _LOWEST_AGREEMENT)
    order = enough[np.lexsort((-agreement[enough], owners[enough]))]
    first = np.searchsorted(owners[order], owners[order])
    return order[np.arange(order.size) - first < _MOST_PARTNERS]


def scores_with_and_without(
    predictions: Mapping[str, Sequence[Prediction]], suspects: set[str], metric: Metric
) -> dict[str, dict[str, Any]]:
    """By system: the metric on all rows, without the suspects, and on the suspects alone.

    suspects: ids of held-out rows. None where no row is left.
    """
    found = {}
    for system, rows in predictions.items():
        without = [row for row in rows if row.id not in suspects]
        inside = [row for row in rows if row.id in suspects]
        found[system] = {
            "all": metric(rows) if rows else None,
            "without": metric(without) if without else None,
            "suspects": metric(inside) if inside else None,
            "num_suspects": len(inside),
        }
    return found


def share_right(rows: Sequence[Prediction]) -> float:
    """Share of rows whose prediction is the reference, or one of the references."""
    right = [row.prediction == row.reference or row.prediction in row.references for row in rows]
    return sum(right) / len(right)


def _tell(
    material: AuditMaterial,
    side: SplitName,
    pairs: Sequence[tuple[Example, Example, float]],
    metric: Metric,
) -> Finding:
    held = {row.id for _, row, _ in pairs}
    scores = {}
    if side == "test" and material.predictions:
        scores = scores_with_and_without(material.predictions, held, metric)
    message = (
        f"{count(len(held), f'{side} row')} much like a training row, in "
        f"{count(len(pairs), 'pair')} (closest: {pairs[0][0].place} and {pairs[0][1].place}); "
        "kept: look at them, a score on rows that training has seen is too good"
    )
    for system, score in scores.items():
        if score["all"] is not None and score["without"] is not None:
            message += f"; {system} {score['all']:.4f} with them, {score['without']:.4f} without"
    looked_at, every = min(_MOST_HELD, len(material.side(side))), len(material.side(side))
    if looked_at < every:
        message += f"; {looked_at:,} of {every:,} {side} rows were looked at"
    details = {"split": side, "pairs": len(pairs), "held_rows": len(held), "scores": scores}
    return name_rows(
        "near_leak", "warn", message, [row for row, _, _ in pairs],
        counterparts=tuple(row.place for _, row, _ in pairs),
        scores=tuple(round(score, 4) for _, _, score in pairs), details=details,
    )  # fmt: skip


def _by_meaning(
    material: AuditMaterial, side: SplitName, rows: Ints, held: Ints, cosine: float
) -> list[tuple[int, int, float]]:
    """(held number, row number, cosine) of the pairs whose embeddings reach the cosine.

    rows, held: which rows of the sides are meant; numbers count in these.
    """
    if material.embed is None:
        return []
    known, asked = (material.embeddings(name) for name in ("train", side))
    assert known is not None and asked is not None
    known, asked = known[rows], asked[held]
    found = []
    for begin in range(0, len(asked), 512):
        near = asked[begin : begin + 512] @ known.T
        left, right = np.nonzero(near >= cosine)
        found += [
            (int(i) + begin, int(j), min(1.0, float(near[i, j])))
            for i, j in zip(left, right, strict=True)
        ]
    return found
