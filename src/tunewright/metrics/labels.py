"""Metrics of labels: one per row, or several. What each row adds, and what the sums are worth.

A row adds counts per class: right (tp), predicted, true. Sums of counts give every F1, precision,
recall, balanced accuracy and Matthews coefficient. Rank metrics (ROC-AUC, PR-AUC) are functions of
weights instead. Classes are the given labels and what else stands in references; answers outside
them share one last class, which counts as wrong and is never averaged over.

Shapes: (n, 3 * (C + 1)) rows; sums (..., 3 * (C + 1)); weights_nB one resample per column.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tunewright.records import Output, Prediction

Array = NDArray[np.float64]
Average = Literal["macro", "micro", "weighted"]
Weighted = Callable[[Array], Array]


def label_set(output: Output) -> tuple[str, ...]:
    """The labels of one output: one for single-label, any number for multi-label, none for None."""
    if isinstance(output, str):
        return (output,)
    if isinstance(output, tuple):
        return tuple(dict.fromkeys(str(label) for label in output))
    return () if output is None else (str(output),)


def classes_of(predictions: Sequence[Prediction], labels: Sequence[str]) -> tuple[str, ...]:
    """The given labels, then those that stand in references only, sorted."""
    known = tuple(dict.fromkeys(labels))
    met = {label for row in predictions for label in label_set(row.reference)}
    return known + tuple(sorted(met - set(known)))


def rarer_label(predictions: Sequence[Prediction], labels: Sequence[str]) -> str:
    """The positive class of a two-class task: the label with fewer rows (a tie: the last)."""
    counts = Counter(label for row in predictions for label in label_set(row.reference))
    classes = classes_of(predictions, labels)
    met = [label for label in classes if counts[label]] or list(classes) or [""]
    candidates = list(classes) if len(classes) == 2 else met
    return min(reversed(candidates or [""]), key=lambda label: counts[label])


def is_right(prediction: Prediction) -> bool:
    """Whether the answer is the reference: the same label, or the same set of labels."""
    answered, true = prediction.prediction, prediction.reference
    if isinstance(answered, str) and isinstance(true, str):
        return answered == true
    return set(label_set(answered)) == set(label_set(true))


def right_rows(predictions: Sequence[Prediction], labels: Sequence[str]) -> Array:
    """(n, 2): 1 where the answer equals the reference (all labels of it), and 1."""
    return with_count([is_right(row) for row in predictions])


def with_count(values: Sequence[float] | Array) -> Array:
    """(n, 2): the values, and a column of ones, so that sums give a mean."""
    column = np.asarray(values, dtype=np.float64)
    return np.column_stack([column, np.ones(len(column))])


def mean_of(sums: Array, *, column: int = 0) -> Array:
    """Mean of a column whose count stands in the last one; nan without rows."""
    return ratio(sums[..., column], sums[..., -1], empty=math.nan)


def ratio(part: Array, whole: Array, *, empty: float = 0.0) -> Array:
    """part / whole, and `empty` where whole is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    result: Array = np.divide(part, whole, out=np.full(part.shape, empty), where=whole != 0)
    return result


def class_rows(predictions: Sequence[Prediction], labels: Sequence[str]) -> sparse.csr_array:
    """(n, 3 * (C + 1)) counts: right, predicted, true per class.

    The last class is "any other answer", no answer included."""
    classes = classes_of(predictions, labels)
    index = {label: position for position, label in enumerate(classes)}
    width = len(classes) + 1
    hits: list[tuple[int, int]] = []
    for row, prediction in enumerate(predictions):
        answered, true = label_set(prediction.prediction), label_set(prediction.reference)
        hits += [(row, index[label]) for label in answered if label in true]
        hits += [(row, width + index.get(label, width - 1)) for label in answered]
        hits += [(row, 2 * width + index[label]) for label in true]
        if prediction.prediction is None:
            hits.append((row, 2 * width - 1))
    return sparse_counts(hits, (len(predictions), 3 * width))


def sparse_counts(hits: Sequence[tuple[int, int]], shape: tuple[int, int]) -> sparse.csr_array:
    """How often each (row, column) stands in `hits`."""
    places = np.array(hits, dtype=np.int64).reshape(-1, 2)
    return sparse.csr_array((np.ones(len(places)), (places[:, 0], places[:, 1])), shape=shape)


def one_class_rows(
    predictions: Sequence[Prediction], labels: Sequence[str], *, label: str | None = None
) -> Array:
    """(n, 3): right, predicted, true for one class; None takes the rarer label."""
    wanted = rarer_label(predictions, labels) if label is None else label
    rows = np.zeros((len(predictions), 3))
    for position, row in enumerate(predictions):
        answered, true = wanted in label_set(row.prediction), wanted in label_set(row.reference)
        rows[position] = (answered and true, answered, true)
    return rows


def precision_of(sums: Array, *, average: Average = "macro") -> Array:
    """Precision; 0 for a class never predicted. Macro: over classes that are true or predicted."""
    right, predicted, true = _counts(sums)
    return _averaged(right, predicted, predicted, true, average)


def recall_of(sums: Array, *, average: Average = "macro") -> Array:
    """Recall; 0 for a class that is predicted but never true."""
    right, predicted, true = _counts(sums)
    return _averaged(right, true, predicted, true, average)


def f1_of(sums: Array, *, average: Average = "macro") -> Array:
    """F1, the harmonic mean of precision and recall."""
    right, predicted, true = _counts(sums)
    return _averaged(2 * right, predicted + true, predicted, true, average)


def balanced_accuracy_of(sums: Array) -> Array:
    """Mean recall over the classes that are true somewhere."""
    right, _, true = _counts(sums)
    return ratio(ratio(right, true).sum(-1), (true > 0).sum(-1), empty=math.nan)


def mcc_of(sums: Array) -> Array:
    """Matthews correlation for any number of classes (Gorodkin 2004); 0 where it is undefined."""
    right, predicted, true = _counts(sums)
    hits, rows = right.sum(-1), true.sum(-1)
    covariance = hits * rows - (predicted * true).sum(-1)
    spread_predicted = rows**2 - (predicted**2).sum(-1)
    spread_true = rows**2 - (true**2).sum(-1)
    return ratio(covariance, np.sqrt(np.maximum(spread_predicted * spread_true, 0.0)))


def hamming_loss_of(sums: Array) -> Array:
    """Share of (row, label) decisions that are wrong. sums: class sums and, last, rows x labels."""
    right, predicted, true = _counts(sums[..., :-1])
    wrong = predicted.sum(-1) + true.sum(-1) - 2 * right.sum(-1)
    return ratio(wrong, sums[..., -1], empty=math.nan)


def hamming_rows(predictions: Sequence[Prediction], labels: Sequence[str]) -> sparse.csr_array:
    """class_rows and a last column with the number of labels that each row decides on."""
    num_labels = len(classes_of(predictions, labels))
    decisions = np.full((len(predictions), 1), float(num_labels))
    stacked = sparse.hstack([class_rows(predictions, labels), sparse.csr_array(decisions)])
    return sparse.csr_array(stacked)


def roc_auc(predictions: Sequence[Prediction], labels: Sequence[str]) -> Weighted:
    """Area under the ROC curve as a function of weights_nB; ties count half.

    Two classes: of the rarer label. More, or multi-label: mean over labels, one against the rest.
    """
    return partial(mean_over_labels, scored_labels(predictions, labels), _roc_auc_of)


def pr_auc(predictions: Sequence[Prediction], labels: Sequence[str]) -> Weighted:
    """Average precision (no interpolation) as a function of weights_nB; labels as in roc_auc."""
    return partial(mean_over_labels, scored_labels(predictions, labels), average_precision_of)


def _counts(sums: Array) -> tuple[Array, Array, Array]:
    width = sums.shape[-1] // 3
    return sums[..., :width], sums[..., width : 2 * width], sums[..., 2 * width :]


def _averaged(part: Array, whole: Array, predicted: Array, true: Array, average: Average) -> Array:
    if average == "micro" or part.shape[-1] == 1:
        return ratio(part.sum(-1), whole.sum(-1))
    per_class = ratio(part, whole)[..., :-1]
    if average == "weighted":
        return ratio((per_class * true[..., :-1]).sum(-1), true[..., :-1].sum(-1))
    present = ((predicted + true)[..., :-1] > 0).sum(-1)
    return ratio(per_class.sum(-1), present)


def scored_labels(
    predictions: Sequence[Prediction], labels: Sequence[str]
) -> list[tuple[Array, NDArray[np.bool_]]]:
    """(scores, is positive) per label that decides; needs probabilities in label order."""
    scores = np.array([row.probabilities for row in predictions], dtype=np.float64)
    true = [set(label_set(row.reference)) for row in predictions]
    several = any(isinstance(row.reference, tuple) for row in predictions)
    if len(labels) == 2 and not several:
        wanted = [list(labels).index(rarer_label(predictions, labels))]
    else:
        wanted = list(range(len(labels)))
    pairs = [(scores[:, i], np.array([labels[i] in row for row in true])) for i in wanted]
    return [pair for pair in pairs if pair[1].any() and not pair[1].all()]


def mean_over_labels(
    pairs: list[tuple[Array, NDArray[np.bool_]]],
    area: Callable[[Array, NDArray[np.bool_], Array], Array],
    weights_nB: Array,
) -> Array:
    """`area` of each (scores, is positive) pair, averaged where it is defined: B values."""
    if not pairs:
        return np.full(weights_nB.shape[1], math.nan)
    areas = np.stack([area(scores, positive, weights_nB) for scores, positive in pairs])
    defined = np.isfinite(areas)
    return ratio(np.where(defined, areas, 0.0).sum(0), defined.sum(0), empty=math.nan)


def weight_by_threshold(
    scores: Array, positive: NDArray[np.bool_], weights_nB: Array
) -> tuple[Array, Array]:
    """Positive and negative weight at each distinct score, highest first: two (T, B) arrays."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])
    sorted_nB = weights_nB[order]
    all_TB = np.add.reduceat(sorted_nB, starts, axis=0)
    sorted_nB[~positive[order]] = 0.0
    positive_TB = np.add.reduceat(sorted_nB, starts, axis=0)
    return positive_TB, all_TB - positive_TB


def _roc_auc_of(scores: Array, positive: NDArray[np.bool_], weights_nB: Array) -> Array:
    positive_TB, negative_TB = weight_by_threshold(scores, positive, weights_nB)
    above_TB = np.cumsum(positive_TB, axis=0) - positive_TB / 2
    area = (above_TB * negative_TB).sum(0)
    return ratio(area, positive_TB.sum(0) * negative_TB.sum(0), empty=math.nan)


def average_precision_of(scores: Array, positive: NDArray[np.bool_], weights_nB: Array) -> Array:
    """Average precision for each column of weights; nan without positive weight."""
    positive_TB, negative_TB = weight_by_threshold(scores, positive, weights_nB)
    found_TB = np.cumsum(positive_TB, axis=0)
    precision_TB = ratio(found_TB, found_TB + np.cumsum(negative_TB, axis=0))
    return ratio((precision_TB * positive_TB).sum(0), found_TB[-1], empty=math.nan)
