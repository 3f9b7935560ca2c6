"""Linear models whose answers carry honest probabilities.

A linear support vector machine is the strongest cheap classifier of text that we measured, but it
speaks in margins. They become probabilities by a softmax (a sigmoid where labels are not
exclusive) with one temperature, fitted on a held-out fifth of the training rows: temperature
scaling, Guo et al. 2017, applied to margins. It never changes which label is first.

Shapes: B rows, F features, K labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import expit, log_expit, log_softmax, softmax

from tunewright.evaluate.material import Floats, Ints, NotPossible, spread

DEFAULT_TEMPERATURE = 0.3
"""Used where too few rows are left to fit one; typical of short texts."""
FEWEST_HELD_OUT = 10
# 1e-2 gives the same test accuracy as scikit-learn's 1e-4 in half the time (banking77: 91.17).
_TOLERANCE = 1e-2
_ALPHAS = (0.1, 0.3, 1.0, 3.0, 10.0)


def margin_probabilities(train: Any, labels: Ints, test: Any, num_labels: int, seed: int) -> Floats:
    """(B, K) probabilities of the test rows. labels: -1 for rows to leave out.

    Raises NotPossible where training holds fewer than two labels.
    """
    known = labels >= 0
    train, labels = train[known], labels[known]
    if np.unique(labels).size < 2:
        raise NotPossible("it needs at least two labels among the training rows")
    temperature = _class_temperature(train, labels, seed)
    classes, margins = _class_margins(train, labels, test, seed)
    return spread(softmax(margins / temperature, axis=1), classes, num_labels)


def margin_label_probabilities(train: Any, marks_BK: Floats, test: Any, seed: int) -> Floats:
    """(B, K) probabilities of labels that do not exclude each other, each learned for itself."""
    held_out = folds(np.zeros(len(marks_BK), dtype=np.int64), 5, seed) == 0
    temperature = DEFAULT_TEMPERATURE
    if held_out.sum() >= FEWEST_HELD_OUT:
        margins = _label_margins(train[~held_out], marks_BK[~held_out], train[held_out], seed)
        signs = np.where(marks_BK[held_out] > 0, 1.0, -1.0)
        temperature = _fit_temperature(lambda t: -log_expit(signs * margins / t).mean())
    return np.asarray(expit(_label_margins(train, marks_BK, test, seed) / temperature))


def ridge_values(train: Any, values: Floats, test: Any, seed: int) -> Floats:
    """(B,) predictions of ridge regression; its penalty is chosen on a held-out fifth."""
    from sklearn.linear_model import Ridge

    mean, deviation = float(values.mean()), float(values.std())
    if deviation == 0.0 or train.shape[1] == 0:
        return np.full(test.shape[0], mean)
    scaled = (values - mean) / deviation
    held_out = folds(np.zeros(len(values), dtype=np.int64), 5, seed) == 0
    alpha = 1.0
    if held_out.sum() >= FEWEST_HELD_OUT:
        errors = [
            np.square(
                Ridge(a).fit(train[~held_out], scaled[~held_out]).predict(train[held_out])
                - scaled[held_out]
            ).mean()
            for a in _ALPHAS
        ]
        alpha = _ALPHAS[int(np.argmin(errors))]
    return np.asarray(Ridge(alpha).fit(train, scaled).predict(test)) * deviation + mean


def folds(labels: Ints, count: int, seed: int) -> Ints:
    """(B,) fold of each row, 0 to count - 1; every label is dealt out evenly."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    dealt = shuffled[np.argsort(labels[shuffled], kind="stable")]
    out = np.zeros(len(labels), dtype=np.int64)
    out[dealt] = np.arange(len(labels)) % count
    return out


def _class_temperature(train: Any, labels: Ints, seed: int) -> float:
    held_out = folds(labels, 5, seed) == 0
    if held_out.sum() < FEWEST_HELD_OUT or np.unique(labels[~held_out]).size < 2:
        return DEFAULT_TEMPERATURE
    classes, margins = _class_margins(train[~held_out], labels[~held_out], train[held_out], seed)
    known = np.isin(labels[held_out], classes)
    columns = np.searchsorted(classes, labels[held_out][known])
    rows = np.arange(columns.size)

    def loss(temperature: float) -> float:
        return float(-log_softmax(margins[known] / temperature, axis=1)[rows, columns].mean())

    return _fit_temperature(loss) if columns.size else DEFAULT_TEMPERATURE


def _class_margins(train: Any, labels: Ints, test: Any, seed: int) -> tuple[Ints, Floats]:
    """(classes seen, margins (B, classes))."""
    from sklearn.svm import LinearSVC

    if train.shape[1] == 0:
        raise NotPossible("the training texts hold no word to learn from")
    model = LinearSVC(random_state=seed, tol=_TOLERANCE).fit(train, labels)
    margins = np.asarray(model.decision_function(test))
    if margins.ndim == 1:
        margins = np.stack([-margins, margins], axis=1) / 2
    return np.asarray(model.classes_, dtype=np.int64), margins


def _label_margins(train: Any, marks_BK: Floats, test: Any, seed: int) -> Floats:
    """(B, K) margins; a label on all or none of the rows gets one that no row changes."""
    from sklearn.svm import LinearSVC

    margins = np.zeros((test.shape[0], marks_BK.shape[1]))
    for k, marks in enumerate(marks_BK.T):
        if np.unique(marks).size < 2 or train.shape[1] == 0:
            margins[:, k] = 1.0 if marks.mean() >= 0.5 else -1.0
        else:
            model = LinearSVC(random_state=seed, tol=_TOLERANCE).fit(train, marks)
            margins[:, k] = model.decision_function(test)
    return margins


def _fit_temperature(loss: Callable[[float], float]) -> float:
    """The temperature between 0.05 and 100 with the least mean log loss."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda x: loss(float(np.exp(x))), bounds=(np.log(0.05), np.log(100)), method="bounded"
    )
    return float(np.exp(found.x))
