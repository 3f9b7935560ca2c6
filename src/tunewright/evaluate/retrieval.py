"""Finding the text that belongs to an input by its words alone: what vectors must beat.

Shapes: B inputs, C texts to choose from, F words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunewright.evaluate.material import Material, need_asker, need_task
from tunewright.evaluate.ranking import Floats, Scores, rank
from tunewright.records import Prediction

BM25_K1, BM25_B = 1.5, 0.75
WORDS = r"(?u)\b\w+\b"


def tfidf_cosine(material: Material) -> list[Prediction]:
    """Words by how rare they are, compared by cosine; nothing is learned but the rarity."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    def scores(inputs: Sequence[str], texts: Sequence[str]) -> Floats:
        reader = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=WORDS)
        texts_CF = reader.fit_transform(texts)
        return np.asarray((reader.transform(inputs) @ texts_CF.T).toarray(), dtype=np.float64)

    return _by_words(material, scores, "tfidf_cosine")


def bm25(material: Material) -> list[Prediction]:
    """Okapi BM25 (Robertson et al. 1994; k1 1.5, b .75), what search engines do without a model."""
    from sklearn.feature_extraction.text import CountVectorizer

    def scores(inputs: Sequence[str], texts: Sequence[str]) -> Floats:
        reader = CountVectorizer(token_pattern=WORDS)
        counts_CF = reader.fit_transform(texts).tocsr().astype(np.float64)
        lengths_C = np.asarray(counts_CF.sum(axis=1)).ravel()
        holders_F = np.bincount(counts_CF.indices, minlength=counts_CF.shape[1])
        rarity_F = np.log(1.0 + (len(texts) - holders_F + 0.5) / (holders_F + 0.5))
        long_C = BM25_K1 * (1 - BM25_B + BM25_B * lengths_C / max(lengths_C.mean(), 1e-9))
        rows = np.repeat(np.arange(len(texts)), np.diff(counts_CF.indptr))
        counts_CF.data = (
            rarity_F[counts_CF.indices]
            * counts_CF.data * (BM25_K1 + 1) / (counts_CF.data + long_C[rows])
        )  # fmt: skip
        return np.asarray((reader.transform(inputs) @ counts_CF.T).toarray(), dtype=np.float64)

    return _by_words(material, scores, "bm25")


def _by_words(material: Material, scores: Scores, system: str) -> list[Prediction]:
    need_task(material, "embed")
    passages = need_asker(material).passages
    return rank(material.test, passages, scores, system, material.split)
