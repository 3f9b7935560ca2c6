"""Examples as sparse or dense numbers for the classic baselines: text by TF-IDF, side columns
standardised or one-hot. Everything is learned from training rows only.

Shapes: B rows, F features.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tunewright.records import Example

MAX_CHARACTERS = 4000
"""Text beyond this is not read: as with the model, whose input is cut too."""
MAX_CATEGORIES = 250
"""Boosted trees take at most 255 values of a column; rarer ones count as missing."""
Table = NDArray[np.float64]


@dataclass(frozen=True)
class Column:
    """A side column as training shows it. numeric: every known value is a number.

    categories: known values, most frequent first. mean, deviation: of a numeric column.
    """

    name: str
    numeric: bool
    categories: tuple[str, ...] = ()
    mean: float = 0.0
    deviation: float = 1.0


def linear_features(train: Sequence[Example], test: Sequence[Example]) -> tuple[Any, Any]:
    """(train, test) sparse (B, F): words, word pairs and character n-grams, then side columns."""
    texts = text_features(_texts(train), _texts(test))
    columns = find_columns(train)
    if not columns:
        return texts
    beside = [sparse.csr_matrix(_scaled(rows, columns)) for rows in (train, test)]
    joined = [sparse.hstack(pair).tocsr() for pair in zip(texts, beside, strict=True)]
    return joined[0], joined[1]


def text_features(train: Sequence[str], test: Sequence[str]) -> tuple[Any, Any]:
    """(train, test) sparse (B, F) TF-IDF with sublinear counts, each block of unit length.

    Character n-grams within word borders carry misspellings and endings, words and word pairs the
    meaning; a linear model on both is hard to beat on short texts.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    blocks = (
        {"ngram_range": (1, 2)},
        {"ngram_range": (2, 4), "analyzer": "char_wb"},
    )
    pairs = [_weigh(TfidfVectorizer(sublinear_tf=True, **how), train, test) for how in blocks]
    return (
        sparse.hstack([pair[0] for pair in pairs]).tocsr(),
        sparse.hstack([pair[1] for pair in pairs]).tocsr(),
    )


def character_features(train: Sequence[str], test: Sequence[str]) -> tuple[Any, Any]:
    """(train, test) sparse (B, F) TF-IDF of character n-grams, rows of unit length or empty."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    how = TfidfVectorizer(
        sublinear_tf=True, analyzer="char_wb", ngram_range=(2, 5), dtype=np.float32
    )
    return _weigh(how, [t[:MAX_CHARACTERS] for t in train], [t[:MAX_CHARACTERS] for t in test])


def dense_features(
    train: Sequence[Example], test: Sequence[Example], *, num_text: int, seed: int
) -> tuple[Table, Table, NDArray[np.bool_]]:
    """(train, test, which columns are categories): side columns, then text in num_text numbers.

    Missing numbers are nan, categories codes; text is TF-IDF reduced by a truncated SVD.
    """
    columns = find_columns(train)
    reduced = _reduce(*text_features(_texts(train), _texts(test)), num_text, seed)
    tables = [
        np.hstack([_coded(r, columns), t]) for r, t in zip((train, test), reduced, strict=True)
    ]
    marks = [not column.numeric for column in columns] + [False] * reduced[0].shape[1]
    return tables[0], tables[1], np.array(marks, dtype=bool)


def find_columns(train: Sequence[Example]) -> list[Column]:
    """The side columns of the training rows, in order of first appearance."""
    values: dict[str, list[float | str]] = {}
    for example in train:
        for name, value in example.columns:
            values.setdefault(name, [])
            if value is not None:
                values[name].append(value)
    return [_learn(name, known) for name, known in values.items()]


def _learn(name: str, known: Sequence[float | str]) -> Column:
    if known and all(isinstance(value, (int, float)) for value in known):
        numbers = np.array(known, dtype=np.float64)
        numbers = numbers[np.isfinite(numbers)]
        if numbers.size:
            return Column(
                name, True, mean=float(numbers.mean()), deviation=float(numbers.std()) or 1.0
            )
    counts = Counter(str(value) for value in known)
    ordered = sorted(counts, key=lambda value: (-counts[value], value))
    return Column(name, False, categories=tuple(ordered[:MAX_CATEGORIES]))


def _scaled(rows: Sequence[Example], columns: Sequence[Column]) -> Table:
    """(B, F) numbers in deviations from the mean, with a mark where missing; one-hot categories."""
    parts = []
    for column, coded in zip(columns, _coded(rows, columns).T, strict=True):
        missing = np.isnan(coded)
        if column.numeric:
            # A wild outlier must not outweigh the text.
            scaled = np.clip((coded - column.mean) / column.deviation, -5.0, 5.0)
            parts.append(np.where(missing, 0.0, scaled)[:, None])
        else:
            parts.append((coded[:, None] == np.arange(len(column.categories))).astype(np.float64))
        parts.append(missing[:, None].astype(np.float64))
    return np.hstack(parts)


def _coded(rows: Sequence[Example], columns: Sequence[Column]) -> Table:
    """(B, columns) numbers and category codes; nan where missing, unknown or not a number."""
    table = np.full((len(rows), len(columns)), np.nan)
    codes = [{value: code for code, value in enumerate(c.categories)} for c in columns]
    for number, row in enumerate(rows):
        values = dict(row.columns)
        for place, column in enumerate(columns):
            value = values.get(column.name)
            if value is None:
                continue
            if not column.numeric:
                table[number, place] = codes[place].get(str(value), np.nan)
            elif isinstance(value, (int, float)) and np.isfinite(value):
                table[number, place] = value
    return table


def _texts(rows: Sequence[Example]) -> list[str]:
    return [row.input[:MAX_CHARACTERS] for row in rows]


def _weigh(vectorizer: Any, train: Sequence[str], test: Sequence[str]) -> tuple[Any, Any]:
    """Fitted on train; no columns at all where the training texts hold no term."""
    analyze = vectorizer.build_analyzer()
    if not any(analyze(text) for text in train):
        return sparse.csr_matrix((len(train), 0)), sparse.csr_matrix((len(test), 0))
    return vectorizer.fit_transform(train).tocsr(), vectorizer.transform(test).tocsr()


def _reduce(train: Any, test: Any, size: int, seed: int) -> tuple[Table, Table]:
    from sklearn.decomposition import TruncatedSVD

    size = min(size, train.shape[1] - 1, train.shape[0] - 1)
    if size < 1:
        return np.zeros((train.shape[0], 0)), np.zeros((test.shape[0], 0))
    how = TruncatedSVD(size, random_state=seed).fit(train)
    return np.asarray(how.transform(train)), np.asarray(how.transform(test))
