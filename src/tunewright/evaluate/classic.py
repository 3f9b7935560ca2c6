"""Baselines that need no model: the most frequent answer, TF-IDF with a linear model, boosted
trees. Each learns from the training rows alone.
"""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from tunewright.evaluate.features import dense_features, linear_features
from tunewright.evaluate.margins import (
    margin_label_probabilities,
    margin_probabilities,
    ridge_values,
)
from tunewright.evaluate.material import (
    Floats,
    Ints,
    Material,
    NotPossible,
    answer,
    class_answers,
    label_index,
    label_matrix,
    label_set,
    need_task,
    number_answers,
    numbers_of,
    some_rows,
    spread,
)
from tunewright.evaluate.word_tags import tag_words
from tunewright.records import Output, Prediction

MAX_ROWS = 100_000
"""A classic baseline learns from at most this many training rows, drawn at random."""
NUM_TEXT_DIMENSIONS = 32
"""Numbers that the text becomes for trees, which cannot read tens of thousands of columns."""
_ROWS_FOR_EARLY_STOP = 1000


def majority(material: Material) -> list[Prediction]:
    """The most frequent label (or set of labels; no span for tag) for every row, ties by name.

    Probabilities are the shares of the labels in training.
    """
    need_task(material, "classify", "tag")
    if material.task == "tag":
        return [answer(material, example, "majority", ()) for example in material.test]
    shares = label_matrix(material.train, material.labels).mean(axis=0)
    counts = Counter(label_set(row.output) for row in material.train)
    chosen = min(counts, key=lambda labels: (-counts[labels], labels))
    confidence = counts[chosen] / len(material.train)
    output: Output = chosen if material.multi_label else chosen[0]
    return [answer(material, e, "majority", output, confidence, shares) for e in material.test]


def mean(material: Material) -> list[Prediction]:
    """The mean of the training targets for every row."""
    need_task(material, "regress")
    value = float(numbers_of(material.train).mean())
    return number_answers(material, "mean", np.full(len(material.test), value))


def tfidf_linear(material: Material) -> list[Prediction]:
    """A linear model on TF-IDF of words, word pairs and character n-grams, side columns appended.

    classify: support vectors, calibrated; regress: ridge; tag: a linear model per word.
    Raises NotPossible where training holds one label only.
    """
    need_task(material, "classify", "regress", "tag")
    train = some_rows(material.train, MAX_ROWS, material.seed)
    if material.task == "tag":
        return tag_words(material, train, "tfidf_linear")
    known, asked = linear_features(train, material.test)
    material.advance(0.3)
    if material.task == "regress":
        values = ridge_values(known, numbers_of(train), asked, material.seed)
        return number_answers(material, "tfidf_linear", values)
    if material.multi_label:
        marks = label_matrix(train, material.labels)
        found = margin_label_probabilities(known, marks, asked, material.seed)
    else:
        index = label_index(train, material.labels)
        found = margin_probabilities(known, index, asked, len(material.labels), material.seed)
    return class_answers(material, "tfidf_linear", found)


def boosted_trees(material: Material) -> list[Prediction]:
    """Gradient-boosted trees on the side columns and a 32-number summary of the text.

    The usual best model for rows of numbers and categories (Grinsztajn et al. 2022).
    """
    need_task(material, "classify", "regress")
    train = some_rows(material.train, MAX_ROWS, material.seed)
    known, asked, categories = dense_features(
        train, material.test, num_text=NUM_TEXT_DIMENSIONS, seed=material.seed
    )
    if known.shape[1] == 0:
        raise NotPossible("the rows have neither columns nor words")
    material.advance(0.2)
    # One thread: sums must not depend on how many there are, and on small tables threads that wait
    # for each other on a busy machine took fifty times as long as the work.
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a bin of one value is no news
        if material.task == "regress":
            model = _regressor(len(train), categories, material.seed).fit(known, numbers_of(train))
            return number_answers(material, "boosted_trees", model.predict(asked))
        if material.multi_label:
            marks = label_matrix(train, material.labels)
            found = [_grow(known, m.astype(np.int64), asked, categories, material) for m in marks.T]
            return class_answers(
                material, "boosted_trees", np.stack([p[:, 1] for p in found], axis=1)
            )
        index = label_index(train, material.labels)
        if np.unique(index[index >= 0]).size < 2:
            raise NotPossible("it needs at least two labels among the training rows")
        kept = index >= 0
        found_BK = _grow(known[kept], index[kept], asked, categories, material)
        return class_answers(material, "boosted_trees", found_BK)


def _grow(known: Floats, index: Ints, asked: Floats, categories: Any, material: Material) -> Floats:
    """(B, K) probabilities of a fitted classifier; (B, 2) for the marks of one label."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    size = 2 if material.multi_label else len(material.labels)
    classes = np.unique(index)
    if classes.size < 2:  # a label that every row or no row carries
        return spread(np.ones((len(asked), 1)), classes, size)
    # Stopping early sets rows of every label aside, so there must be some.
    early = len(index) >= _ROWS_FOR_EARLY_STOP and int(np.bincount(index)[classes].min()) >= 10
    model = HistGradientBoostingClassifier(**_shape(len(index), early, categories, material.seed))
    model.fit(known, index)
    return spread(np.asarray(model.predict_proba(asked)), model.classes_, size)


def _regressor(num_rows: int, categories: Any, seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor

    early = num_rows >= _ROWS_FOR_EARLY_STOP
    return HistGradientBoostingRegressor(**_shape(num_rows, early, categories, seed))


def _shape(num_rows: int, early: bool, categories: Any, seed: int) -> dict[str, Any]:
    return {
        "max_iter": 300 if early else 100,
        "early_stopping": early,
        "min_samples_leaf": max(2, min(20, num_rows // 20)),
        "categorical_features": categories,
        "random_state": seed,
    }
