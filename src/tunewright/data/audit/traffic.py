"""Do the training rows stand for what is really asked? Compared by coverage, classes, lengths.

Texts become vectors by an encoder where one is at hand, else by their words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp
from sklearn.cluster import MiniBatchKMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from tunewright.data.audit.classes import compare_counts
from tunewright.data.audit.folds import (
    Floats,
    Ints,
    deal_folds,
    dense_view,
    gaussian_scores,
    label_numbers,
)
from tunewright.data.audit.material import AuditMaterial, count, list_some, name_rows
from tunewright.data.clean import plain_words
from tunewright.errors import DataError
from tunewright.records import Example, Finding

USUAL_SHARE = 0.95
MAX_ROWS = 20_000
"""Of training and of traffic, drawn at random."""
_FEWEST_IN_THEME = 3


def compare_with_traffic(
    material: AuditMaterial,
    traffic: Sequence[Example],
    *,
    least_coverage: float = 0.9,
    p_value: float = 0.001,
) -> list[Finding]:
    """What training lacks of real requests.

    Kinds: traffic_summary (always; details: coverage, apartness, medians of length),
    traffic_not_covered (requests farther from any training row than 95 % of training rows are
    from each other, where they are more than 1 - least_coverage; themes named, rows listed),
    traffic_classes (predicted classes of requests spread unlike training's), traffic_lengths.
    Raises DataError without requests.
    """
    if not traffic or not material.train:
        raise DataError("no requests to compare with; give a file of them to --against")
    rng = np.random.default_rng(material.seed)
    train, asked = _some(material.train, rng), _some(traffic, rng)
    with material.journal.progress("comparing with traffic", 1.0) as advance:
        table, requests = dense_view(material, [[r.input for r in train], [r.input for r in asked]])
        advance(0.5, "")
        limit = float(np.quantile(_nearest(table, table, skip_self=True), 1 - USUAL_SHARE))
        near = _nearest(requests, table)
        advance(0.8, "")
        apart = apartness(table, requests, material.seed)
        advance(1.0, "")
    coverage = float((near >= limit).mean())
    findings = [_summary(train, asked, coverage, apart)]
    if coverage < least_coverage:
        findings.append(_not_covered(asked, requests, near, limit, coverage, material.seed))
    findings += _classes(material, train, table, requests, p_value)
    findings += _lengths(train, asked, p_value)
    return findings


def apartness(first: Floats, second: Floats, seed: int) -> float:
    """How well a linear model tells rows of one side from the other: AUC, .5 where they are alike.

    On rows that it has not seen; five folds.
    """
    table = np.concatenate([first, second])
    sides = np.repeat([0, 1], [len(first), len(second)])
    if min(len(first), len(second)) < 10:
        return 0.5
    folds = deal_folds(sides, 5, seed)
    found = np.empty(len(sides))
    for fold in range(5):
        held = folds == fold
        model = LogisticRegression(class_weight="balanced", max_iter=200)
        with threadpool_limits(limits=1):
            model.fit(table[~held], sides[~held])
            found[held] = model.decision_function(table[held])
    return float(roc_auc_score(sides, found))


def _some(rows: Sequence[Example], rng: np.random.Generator) -> list[Example]:
    if len(rows) <= MAX_ROWS:
        return list(rows)
    return [rows[int(i)] for i in np.sort(rng.choice(len(rows), MAX_ROWS, replace=False))]


def _nearest(asked: Floats, known: Floats, skip_self: bool = False) -> NDArray[np.float64]:
    """(B,) cosine of each row to its nearest among the known."""
    out = np.empty(len(asked))
    for begin in range(0, len(asked), 1024):
        cosines = asked[begin : begin + 1024] @ known.T
        if skip_self:
            rows = np.arange(len(cosines))
            cosines[rows, rows + begin] = -1.0
        out[begin : begin + 1024] = cosines.max(axis=1)
    return out


def _summary(
    train: Sequence[Example], asked: Sequence[Example], coverage: float, apart: float
) -> Finding:
    words = [float(np.median([len(r.input.split()) for r in rows])) for rows in (train, asked)]
    message = (
        f"training covers {coverage:.1%} of {len(asked):,} requests; a linear model tells "
        f"requests from training rows with AUC {apart:.2f} (.5 means alike); usual length "
        f"{words[0]:g} words in training, {words[1]:g} in requests"
    )
    details = {
        "coverage": round(coverage, 4), "apartness": round(apart, 4),
        "median_words": {"train": words[0], "traffic": words[1]}, "requests": len(asked),
    }  # fmt: skip
    return Finding("traffic_summary", "info", message, details=details)


def _not_covered(
    asked: Sequence[Example],
    requests: Floats,
    near: NDArray[np.float64],
    limit: float,
    coverage: float,
    seed: int,
) -> Finding:
    far = np.flatnonzero(near < limit)
    far = far[np.argsort(near[far], kind="stable")]
    themes = name_themes([asked[int(i)].input for i in far], requests[far], seed)
    named = "; ".join(f"{words} ({number:,})" for words, number in themes[:5])
    message = (
        f"{len(far):,} of {len(asked):,} requests are unlike any training row"
        + (f", on: {named}" if named else "")
        + "; label some of them, or say that they are out of scope"
    )
    details = {"coverage": round(coverage, 4), "themes": [list(theme) for theme in themes]}
    return name_rows(
        "traffic_not_covered", "warn", message, [asked[int(i)] for i in far],
        scores=tuple(round(float(near[i]), 4) for i in far), details=details,
    )  # fmt: skip


def name_themes(texts: Sequence[str], table: Floats, seed: int) -> list[tuple[str, int]]:
    """(telling words, number of texts) of each group of like texts, largest first."""
    if len(texts) < _FEWEST_IN_THEME:
        return []
    number = min(8, max(1, len(texts) // 10))
    with threadpool_limits(limits=1):
        owner = MiniBatchKMeans(number, random_state=seed, n_init=3).fit_predict(table)
    counts: list[Counter[str]] = [Counter() for _ in range(number)]
    for text, group in zip(texts, owner, strict=True):
        counts[group].update({word for word in plain_words(text).split() if len(word) > 2})
    total: Counter[str] = sum(counts, Counter())
    themes = []
    for group, words in enumerate(counts):
        size = int((owner == group).sum())
        if size < _FEWEST_IN_THEME:
            continue
        # A word tells of a group that it is common in and rare outside.
        ranked = sorted(words, key=lambda w: (-(words[w] ** 2) / (total[w] + 1.0), w))
        themes.append((" ".join(ranked[:4]), size))
    return sorted(themes, key=lambda theme: -theme[1])


def _classes(
    material: AuditMaterial,
    train: Sequence[Example],
    table: Floats,
    requests: Floats,
    p_value: float,
) -> list[Finding]:
    """Predicted classes of requests against predicted classes of training rows out of fold."""
    if not material.one_label_each:
        return []
    labels, names = label_numbers(train)
    if len(names) < 2:
        return []
    folds = deal_folds(labels, 5, material.seed)
    own = np.empty(len(labels), dtype=np.int64)
    for fold in range(5):
        held = folds == fold
        if held.any() and not held.all():
            own[held] = _guess(table[~held], labels[~held], table[held], len(names))
    theirs = _guess(table, labels, requests, len(names))
    first, second = (Counter({names[k]: int(n) for k, n in _count(x)}) for x in (own, theirs))
    p, distance = compare_counts(first, second)
    if p >= p_value or distance < 0.05:
        return []
    moves = {n: second[n] / len(theirs) - first[n] / len(own) for n in names}
    ranked = sorted(names, key=lambda name: -abs(moves[name]))
    told = [
        f"{n} {first[n] / len(own):.1%} in training, {second[n] / len(theirs):.1%} asked"
        for n in ranked[:5]
    ]
    message = (
        f"requests fall into other classes than training rows (distance {distance:.2f}, "
        f"p {p:.1g}): {list_some(told, 5)}"
    )
    details = {
        "distance": round(distance, 4), "p_value": p,
        "moves": {name: round(moves[name], 4) for name in ranked[:20]},
    }  # fmt: skip
    return [Finding("traffic_classes", "warn", message, details=details)]


def _guess(known: Floats, labels: Ints, asked: Floats, num_labels: int) -> Ints:
    return np.asarray(gaussian_scores(known, labels, asked, num_labels).argmax(axis=1))


def _count(numbers: Ints) -> list[tuple[int, int]]:
    found, counts = np.unique(numbers, return_counts=True)
    return list(zip(found.tolist(), counts.tolist(), strict=True))


def _lengths(train: Sequence[Example], asked: Sequence[Example], p_value: float) -> list[Finding]:
    sides = [np.array([len(row.input) for row in rows]) for rows in (train, asked)]
    found = ks_2samp(sides[0], sides[1])
    if found.pvalue >= p_value or found.statistic < 0.15:
        return []
    longest = float(np.quantile(sides[0], 0.99))
    beyond = int((sides[1] > longest).sum())
    medians = [float(np.median(side)) for side in sides]
    message = (
        f"requests have other lengths than training rows: {medians[1]:g} characters against "
        f"{medians[0]:g} in the middle; {count(beyond, 'request')} longer than 99 % of training"
    )
    details = {"statistic": round(float(found.statistic), 4), "median_chars": medians}
    return [Finding("traffic_lengths", "warn", message, details=details)]
