"""Predictions for rows by models that never saw them, the ground of most audits of labels.

The models are cheap: they are there to doubt labels, not to be the best. On vectors of a frozen
encoder, Gaussians with one shared covariance (linear discriminant analysis with shrinkage, in
closed form, hardly bent by single wrong labels); on words and letters, linear support vectors.
B rows, K labels, D numbers of a vector, F word features.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

from tunewright.data.audit.material import AuditMaterial, labels_of, unit
from tunewright.data.clean import normalise
from tunewright.records import Example

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Scorer = Callable[[Any, Ints, Any, int], Floats]
NUM_FOLDS = 5
SHRINKAGE = 0.1
MAX_CHARACTERS = 4000
WORD_DIMENSIONS = 256
_PENALTY = 0.3
_MOST_SUPPORT_VECTOR_WORK = 5_000_000
"""Rows times labels; beyond, words go through a truncated SVD and the closed form."""


def deal_folds(labels: Ints, num_folds: int, seed: int) -> Ints:
    """(B,) fold of each row, 0 to num_folds - 1; every label is dealt out evenly."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    dealt = shuffled[np.argsort(labels[shuffled], kind="stable")]
    out = np.zeros(len(labels), dtype=np.int64)
    out[dealt] = np.arange(len(labels)) % num_folds
    return out


def folds_by_text(rows: Sequence[Example], labels: Ints, num_folds: int, seed: int) -> Ints:
    """Like deal_folds, with equal texts in one fold, so that no copy answers for its twin."""
    folds = deal_folds(labels, num_folds, seed)
    first: dict[str, int] = {}
    for number, row in enumerate(rows):
        folds[number] = folds[first.setdefault(normalise(row.input), number)]
    return folds


def label_numbers(rows: Sequence[Example]) -> tuple[Ints, list[str]]:
    """(number of each row's label, label names, sorted)."""
    names, numbers = np.unique(labels_of(rows), return_inverse=True)
    return numbers.astype(np.int64), [str(name) for name in names]


def out_of_fold(material: AuditMaterial, rows: Sequence[Example]) -> Floats:
    """(B, K) probabilities of each row's labels by models that did not learn from it.

    rows: the first of the material's, in its order.

    Where embeddings are at hand, the mean of a model on them and one on words: they err in
    different rows. K in the order of label_numbers(rows).
    """
    key = f"out_of_fold/{len(rows)}"
    if key in material.memo:
        known: Floats = material.memo[key]
        return known
    labels, names = label_numbers(rows)
    folds = folds_by_text(rows, labels, NUM_FOLDS, material.seed)
    words = word_features([row.input for row in rows])
    views: list[tuple[Any, Scorer]] = []
    if len(rows) * len(names) > _MOST_SUPPORT_VECTOR_WORK:
        views.append((reduce_words(words, material.seed), gaussian_scores))
    elif words.shape[1]:
        views.append((words, support_vector_scores))
    states = material.first_embeddings(len(rows))
    if states is not None:
        views.append((states.astype(np.float64), gaussian_scores))
    total = np.zeros((len(rows), len(names)))
    with material.journal.progress("learning the labels by heart, in turns", 1.0) as advance:
        for number, (table, scorer) in enumerate(views):
            scores = np.zeros_like(total)
            for fold in range(NUM_FOLDS):
                held = folds == fold
                if held.any() and not held.all():
                    scores[held] = scorer(table[~held], labels[~held], table[held], len(names))
                advance((number + (fold + 1) / NUM_FOLDS) / len(views), "")
            total += temper(scores, labels) / len(views)
    material.memo[key] = total
    return total


def word_features(texts: Sequence[str], others: Sequence[str] | None = None) -> Any:
    """Sparse (B, F) TF-IDF of words, word pairs and letter n-grams of two texts or more.

    With `others` a pair: theirs too, under the vocabulary of `texts`.
    """
    shown = [text[:MAX_CHARACTERS] for text in texts]
    asked = None if others is None else [text[:MAX_CHARACTERS] for text in others]
    blocks, beside = [], []
    for how in ({"ngram_range": (1, 2)}, {"ngram_range": (2, 4), "analyzer": "char_wb"}):
        vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2, dtype=np.float32, **how)
        try:
            blocks.append(vectorizer.fit_transform(shown))
        except ValueError:  # no term stands in two texts
            continue
        if asked is not None:
            beside.append(vectorizer.transform(asked))
    found = _join(blocks, len(shown))
    return found if asked is None else (found, _join(beside, len(asked)))


def reduce_words(table: Any, seed: int, size: int = WORD_DIMENSIONS) -> Floats:
    """(B, size or fewer) unit vectors: a truncated SVD of word features."""
    size = min(size, table.shape[1] - 1, table.shape[0] - 1)
    if size < 1:
        return np.zeros((table.shape[0], 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = TruncatedSVD(size, random_state=seed, n_iter=3).fit_transform(table)
    return unit(found).astype(np.float64)


def dense_view(material: AuditMaterial, groups: Sequence[Sequence[str]]) -> list[Floats]:
    """Unit vectors (B, D) of each group of texts: embeddings, or reduced words of all together."""
    texts = [text for group in groups for text in group]
    if material.embed is not None:
        table = unit(material.embed(texts)).astype(np.float64)
    else:
        table = reduce_words(word_features(texts), material.seed)
    cuts = np.cumsum([len(group) for group in groups])[:-1]
    return [np.asarray(part) for part in np.split(table, cuts)]


def gaussian_scores(known: Any, labels: Ints, asked: Any, num_labels: int) -> Floats:
    """(B, K) log densities up to a constant; a label without a row scores lowest."""
    counts = np.bincount(labels, minlength=num_labels)
    means = np.zeros((num_labels, known.shape[1]))
    np.add.at(means, labels, known)
    means /= np.maximum(counts, 1)[:, None]
    rest = known - means[labels]
    spread = rest.T @ rest / len(known)
    usual = np.trace(spread) / len(spread) or 1.0
    spread = (1 - SHRINKAGE) * spread + SHRINKAGE * usual * np.eye(len(spread))
    weights = np.linalg.solve(spread, means.T)
    shift = np.log(np.maximum(counts, 0.5) / len(known)) - 0.5 * (means.T * weights).sum(axis=0)
    scores = asked @ weights + shift
    scores[:, counts == 0] = scores.min(initial=0.0)
    return np.asarray(scores, dtype=np.float64)


def support_vector_scores(known: Any, labels: Ints, asked: Any, num_labels: int) -> Floats:
    """(B, K) margins; a label without a row scores lowest."""
    scores = np.full((asked.shape[0], num_labels), -2.0)
    if np.unique(labels).size < 2:
        scores[:, labels[0]] = 0.0
        return scores
    model = LinearSVC(C=_PENALTY, tol=1e-2, random_state=0).fit(known, labels)
    margins = np.asarray(model.decision_function(asked), dtype=np.float64)
    if margins.ndim == 1:
        margins = np.stack([-margins, margins], axis=1) / 2
    scores[:, model.classes_] = margins
    return scores


def temper(scores: Floats, labels: Ints) -> Floats:
    """(B, K) probabilities: a softmax whose one temperature fits the labels best (Guo et al. 2017).

    One number fitted to all rows gives none of them away.
    """
    rows = np.arange(len(labels))

    def loss(power: float) -> float:
        return float(-log_softmax(scores / np.exp(power), axis=1)[rows, labels].mean())

    found = minimize_scalar(loss, bounds=(-4.0, 4.0), method="bounded")
    return np.asarray(softmax(scores / np.exp(found.x), axis=1))


def _join(blocks: Sequence[Any], num_rows: int) -> Any:
    return sparse.hstack(blocks).tocsr() if blocks else sparse.csr_matrix((num_rows, 0))
