"""Which rows to label next, and which to keep when only some can be used.

Published gains over random choice often vanish on a second look (Ivison et al. 2025; Xia et al.
2025), so both come with a Trial against as many random rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax
from sklearn.cluster import MiniBatchKMeans
from threadpoolctl import threadpool_limits

from tunewright.data.audit.folds import (
    Floats,
    Ints,
    dense_view,
    gaussian_scores,
    label_numbers,
    out_of_fold,
)
from tunewright.data.audit.label_errors import doubtful_rows
from tunewright.data.audit.material import AuditMaterial
from tunewright.data.audit.trial import Trial, classify_score, nearest_score, run_trial
from tunewright.data.clean import plain_words
from tunewright.errors import DataError
from tunewright.records import Example

POOL = 10
"""The most uncertain rows looked at for diversity, for each row that is wanted."""
_MOST_CLUSTERS = 2000


@dataclass(frozen=True, slots=True)
class Chosen:
    """Rows in the order of their worth, why each stands there, and whether choosing beat chance.

    scores: uncertainty in [0, 1] for rows to label; closeness to the middle of the part of the
    data that a row stands for (cosine) for a subset. trial: None where too few rows allow one.
    """

    rows: tuple[Example, ...]
    scores: tuple[float, ...]
    trial: Trial | None
    message: str


def rank_unlabelled(
    material: AuditMaterial,
    unlabelled: Sequence[Example],
    *,
    most: int,
    repeats: int = 10,
) -> Chosen:
    """The `most` unlabelled rows that would teach the most if they were labelled next.

    Uncertain rows (small lead of the first label over the second), spread over the data: the most
    uncertain POOL * most are clustered with their uncertainty as weight, and the row in the middle
    of each cluster is asked for (Zhdanov 2019). Without labels to learn from, coverage alone.
    The trial hides known labels, starts from a few and lets both ways choose the next.
    Raises DataError where there is nothing to choose.
    """
    if most < 1 or not unlabelled:
        raise DataError("label-next: give unlabelled rows and a number of at least 1")
    texts = [row.input for row in material.train]
    table, asked = dense_view(material, [texts, [row.input for row in unlabelled]])
    trial = None
    doubt = np.ones(len(unlabelled))
    if material.one_label_each and len(material.train) >= 20:
        labels, names = label_numbers(material.train)
        if len(names) > 1:
            doubt = uncertainty(gaussian_scores(table, labels, asked, len(names)))
            with material.journal.progress("trying against random rows", 1.0) as advance:
                trial = _try_ranking(table, labels, len(names), most, repeats, advance, material)
    numbers = spread_out(asked, doubt, most, material.seed)
    rows = tuple(unlabelled[i] for i in numbers)
    message = f"{len(rows)} of {len(unlabelled):,} unlabelled rows to label next"
    if trial is not None:
        message += f"; tried on rows whose labels are known: {trial.sentence()}"
    return Chosen(rows, tuple(round(float(doubt[i]), 4) for i in numbers), trial, message)


def select_subset(material: AuditMaterial, *, most: int, repeats: int = 10) -> Chosen:
    """The `most` training rows that stand for all: covering, class-balanced, doubtful labels last.

    Each class gets an equal share as far as it has rows; within it rows are clustered and the row
    in the middle of each cluster is taken. The trial compares with random rows on the same budget,
    judged by test (else validation, else rows set aside). Classification and written answers.
    Raises DataError where there is nothing to choose.
    """
    if most < 1 or most >= len(material.train):
        raise DataError(
            f"select: {most} of {len(material.train)} training rows; give a number below it"
        )
    judges = material.test or material.validation
    everything = [*material.train, *judges]
    texts = [[row.input for row in material.train], [row.input for row in judges]]
    table = (
        np.concatenate(dense_view(material, texts))
        if judges
        else dense_view(material, texts[:1])[0]
    )
    num = len(material.train)
    classes, doubtful = np.zeros(num, dtype=np.int64), np.zeros(num, dtype=bool)
    if material.one_label_each:
        labels, names = label_numbers(everything)
        classes, learn = labels[:num], classify_score(table, labels, len(names))
        doubtful = _doubtful(material)
    else:
        learn = nearest_score(table, [str(row.output) for row in everything], _alike)

    def choose(pool: Ints, repeat: int) -> Ints:
        trusted = pool[~doubtful[pool]] if (~doubtful[pool]).sum() >= most else pool
        return cover(table, classes, trusted, min(most, len(trusted)), material.seed + repeat)

    judged = np.arange(num, len(everything)) if judges else None
    with material.journal.progress("trying against random rows", 1.0) as advance:
        trial = run_trial(
            choose, learn, len(everything), most, judged=judged, repeats=repeats,
            seed=material.seed, advance=advance,
        )  # fmt: skip
    numbers = choose(np.arange(num), 0)
    nearness = _nearness(table, numbers, np.arange(num))
    message = f"{len(numbers):,} of {num:,} training rows selected: {trial.sentence()}"
    rows = tuple(material.train[int(i)] for i in numbers)
    return Chosen(rows, tuple(round(float(s), 4) for s in nearness), trial, message)


def uncertainty(scores: Floats) -> Floats:
    """(B,) 1 less the lead of the likeliest label over the second, in [0, 1]."""
    ranked = np.sort(softmax(scores, axis=1), axis=1)
    return np.asarray(1.0 - (ranked[:, -1] - ranked[:, -2]))


def spread_out(table: Floats, weights: Floats, most: int, seed: int) -> Ints:
    """Numbers of at most `most` rows, of large weight and far from each other; largest first."""
    pool = np.argsort(-weights, kind="stable")[: POOL * most]
    picked = _middles(table[pool], weights[pool] + 1e-6, min(most, len(pool)), seed)
    numbers = pool[picked]
    return np.asarray(numbers[np.argsort(-weights[numbers], kind="stable")])


def cover(table: Floats, classes: Ints, pool: Ints, most: int, seed: int) -> Ints:
    """Numbers of `most` rows of the pool: classes in equal shares, the middles of clusters."""
    names, counts = np.unique(classes[pool], return_counts=True)
    shares = equal_shares(counts, most)
    chosen = []
    for name, share in zip(names, shares, strict=True):
        rows = pool[classes[pool] == name]
        if share:
            chosen.append(rows[_middles(table[rows], np.ones(len(rows)), int(share), seed)])
    return np.concatenate(chosen)


def equal_shares(counts: Ints, most: int) -> Ints:
    """(K,) rows to take of each class: as equal as its number of rows allows, `most` in all."""
    shares = np.zeros(len(counts), dtype=np.int64)
    for _ in range(min(most, int(counts.sum()))):
        open_classes = np.flatnonzero(shares < counts)
        least = open_classes[np.argmin(shares[open_classes])]
        shares[least] += 1
    return shares


def _middles(table: Floats, weights: Floats, most: int, seed: int) -> Ints:
    """Numbers of `most` rows, each the nearest to the middle of its cluster."""
    if most >= len(table):
        return np.arange(len(table))
    if most > _MOST_CLUSTERS:  # a cluster of a few rows is no better than chance
        return np.random.default_rng(seed).choice(len(table), most, replace=False)
    with threadpool_limits(limits=1):
        model = MiniBatchKMeans(most, random_state=seed, n_init=1, batch_size=1024, max_iter=30)
        owner = model.fit_predict(table, sample_weight=weights)
    distance = np.square(table - model.cluster_centers_[owner]).sum(axis=1)
    order = np.lexsort((distance, owner))
    first = np.concatenate([[True], owner[order][1:] != owner[order][:-1]])
    picked = order[first]
    if len(picked) < most:  # clusters that stayed empty
        rest = np.setdiff1d(np.arange(len(table)), picked)
        picked = np.concatenate([picked, rest[np.argsort(distance[rest])][: most - len(picked)]])
    return np.sort(picked)


def _try_ranking(
    table: Floats, labels: Ints, num_labels: int, most: int, repeats: int, advance: object,
    material: AuditMaterial,
) -> Trial | None:  # fmt: skip
    """Known rows play the unlabelled ones: a few are given, the next are chosen or drawn."""
    num = len(labels)
    given = max(2 * num_labels, min(most, num // 5))
    most = min(most, num // 5)
    if most < 1 or given + 2 * most > 0.6 * num:
        return None

    def start_of(pool: Ints, repeat: int) -> tuple[Ints, Ints]:
        shuffled = np.random.default_rng([material.seed, repeat, 1]).permutation(pool)
        return shuffled[:given], shuffled[given:]

    learn = classify_score(table, labels, num_labels)
    starts: dict[str, Ints] = {}

    def choose(pool: Ints, repeat: int) -> Ints:
        known, rest = start_of(pool, repeat)
        starts["known"] = known
        doubt = uncertainty(gaussian_scores(table[known], labels[known], table[rest], num_labels))
        return rest[spread_out(table[rest], doubt, most, material.seed + repeat)]

    def learn_on(chosen: Ints, held: Ints) -> Floats:
        return learn(np.union1d(starts["known"], chosen), held)

    return run_trial(
        choose, learn_on, num, most, repeats=repeats, seed=material.seed,
        advance=advance,  # type: ignore[arg-type]
    )  # fmt: skip


def _doubtful(material: AuditMaterial) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """(B,) training rows whose label is probably wrong."""
    labels, names = label_numbers(material.train)
    marks = np.zeros(len(labels), dtype=bool)
    if len(names) > 1 and len(labels) >= 50:
        chosen, _, _ = doubtful_rows(out_of_fold(material, material.train), labels)
        marks[chosen] = True
    return marks


def _alike(first: str, second: str) -> float:
    """Dice overlap of words, 0 to 1."""
    a, b = set(plain_words(first).split()), set(plain_words(second).split())
    return 2 * len(a & b) / (len(a) + len(b)) if a or b else 1.0


def _nearness(table: Floats, numbers: Ints, pool: Ints) -> Floats:
    """(chosen,) mean cosine of each chosen row to the rows that it is nearest to."""
    owner = np.concatenate(
        [(table[part] @ table[numbers].T).argmax(axis=1) for part in np.array_split(pool, 64)]
    )
    sums, counts = (
        np.zeros((len(numbers), table.shape[1])),
        np.bincount(owner, minlength=len(numbers)),
    )
    np.add.at(sums, owner, table[pool])
    middles = sums / np.maximum(counts, 1)[:, None]
    return np.asarray((middles * table[numbers]).sum(axis=1))
