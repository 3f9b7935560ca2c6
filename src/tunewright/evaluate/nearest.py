"""The nearest-neighbour baseline: answer as the most similar training rows were answered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tunewright.evaluate.embeddings import embedded_test, embedded_train, unit
from tunewright.evaluate.features import character_features, linear_features
from tunewright.evaluate.material import (
    Floats,
    Ints,
    Material,
    answer,
    class_answers,
    label_matrix,
    need_task,
    number_answers,
    numbers_of,
    some_rows,
)
from tunewright.records import Example, Prediction

NUM_NEIGHBOURS = 5
MAX_ROWS = 100_000
SMALLEST_DISTANCE = 0.02
"""Cosine distance below which neighbours count alike; keeps the weight of a copy finite."""
_CHUNK_CELLS = 8_000_000


def nearest_neighbour(material: Material) -> list[Prediction]:
    """What the most similar training rows say, by cosine.

    classify and regress: five neighbours weighted by 1 / distance, on embeddings of the untuned
    base where it is an encoder, else on TF-IDF. generate and chat: the answer to the most similar
    training prompt, by TF-IDF of character n-grams; of equal ones that with the first id.
    """
    need_task(material, "classify", "regress", "generate", "chat")
    if material.task in ("generate", "chat"):
        return _copied_answers(material)
    train, known, asked = _placed_rows(material)
    if material.task == "regress":
        targets = numbers_of(train)[:, None]
    else:
        targets = label_matrix(train, material.labels)
    found = np.vstack([*_averages(known, asked, targets, material)])
    if material.task == "regress":
        return number_answers(material, "nearest_neighbour", found[:, 0])
    return class_answers(material, "nearest_neighbour", found)


def nearest_rows(
    train: Sequence[Example], test: Sequence[Example], count: int, seed: int
) -> list[tuple[Example, ...]]:
    """Per test row the training rows with an answer that resemble it most, the nearest first; no
    two with the same text. By TF-IDF of character n-grams.
    """
    distinct = {row.input: row for row in train if row.output is not None}
    rows = some_rows(list(distinct.values()), MAX_ROWS, seed)
    if not rows or not test or count < 1:
        return [()] * len(test)
    known, asked = character_features(_prompts(rows), _prompts(test))
    found: list[tuple[Example, ...]] = []
    step = max(1, _CHUNK_CELLS // known.shape[0])
    for start in range(0, len(test), step):
        near = np.asarray((asked[start : start + step] @ known.T).toarray(), dtype=np.float64)
        for chosen in _nearest(np.round(near, 6), count):
            found.append(tuple(rows[i] for i in chosen))
    return found


def _placed_rows(material: Material) -> tuple[list[Example], Any, Any]:
    """(training rows, their points, the test rows' points); points have unit length."""
    if material.asker is not None and material.asker.base.kind == "encoder":
        train, known = embedded_train(material)
        return train, unit(known), unit(embedded_test(material))
    train = some_rows(material.train, MAX_ROWS, material.seed)
    return train, *(_unit_rows(part) for part in linear_features(train, material.test))


def _averages(known: Any, asked: Any, targets: Floats, material: Material) -> Iterator[Floats]:
    """Weighted mean of the neighbours' targets, one chunk of test rows after the other.

    For labels, training as a whole speaks like one more neighbour, so that no label is impossible.
    """
    overall = targets.mean(axis=0)
    for similarity in _similarities(known, asked, material):
        near = _nearest(similarity, NUM_NEIGHBOURS)
        close = np.take_along_axis(similarity, near, axis=1)
        weights = np.where(close > 0, 1.0 / np.maximum(1.0 - close, SMALLEST_DISTANCE), 0.0)
        total = weights.sum(axis=1, keepdims=True)
        shares = weights / np.where(total > 0, total, 1.0)
        means = np.einsum("bn,bnk->bk", shares, targets[near])
        means = np.where(total > 0, means, overall)
        if material.task == "classify":
            means = (NUM_NEIGHBOURS * means + overall) / (NUM_NEIGHBOURS + 1)
        yield means


def _copied_answers(material: Material) -> list[Prediction]:
    train = some_rows(material.train, MAX_ROWS, material.seed)
    known, asked = character_features(_prompts(train), _prompts(material.test))
    answers: list[Prediction] = []
    for similarity in _similarities(known, asked, material):
        for row in similarity:
            example = material.test[len(answers)]
            # Rows stand in order of id, and argmax takes the first of equal ones.
            nearest = int(row.argmax())
            closeness = float(np.clip(row[nearest], 0.0, 1.0))
            text = str(train[nearest].output)
            answers.append(answer(material, example, "nearest_neighbour", text, closeness))
    return answers


def _similarities(known: Any, asked: Any, material: Material) -> Iterator[Floats]:
    """Dense cosines (chunk, training rows), a few test rows at a time."""
    step = max(1, _CHUNK_CELLS // max(1, known.shape[0]))
    across = known.T.tocsr() if hasattr(known, "tocsr") else known.T
    for start in range(0, asked.shape[0], step):
        product = asked[start : start + step] @ across
        dense = product.toarray() if hasattr(product, "toarray") else product
        # Rounded, so that equal texts are equal whatever the order of the sums.
        yield np.round(np.asarray(dense, dtype=np.float64), 6)
        material.advance(0.8 + 0.2 * min(1.0, (start + step) / asked.shape[0]))


def _nearest(similarity: Floats, count: int) -> Ints:
    """(B, count) training rows with the highest similarity, first ids first among equal ones."""
    count = min(count, similarity.shape[1])
    # Below the count-th best value nothing can enter, so only the rows above it are sorted.
    border = np.partition(similarity, -count, axis=1)[:, -count]
    chosen = np.empty((len(similarity), count), dtype=np.int64)
    for number, row in enumerate(similarity):
        able = np.flatnonzero(row >= border[number])
        chosen[number] = able[np.argsort(-row[able], kind="stable")][:count]
    return chosen


def _unit_rows(points: Any) -> Any:
    """Sparse rows scaled to length 1; empty rows stay."""
    lengths = np.sqrt(np.asarray(points.multiply(points).sum(axis=1)).ravel())
    points = points.copy()
    points.data = points.data / np.repeat(
        np.where(lengths > 0, lengths, 1.0), np.diff(points.indptr)
    )
    return points


def _prompts(rows: Sequence[Example]) -> list[str]:
    return [row.input for row in rows]
