"""How new a request is to a model: a likelihood ratio of "unlike anything trained" against "known".

Examples of the unknown are made from the known: a reference row whose own class is taken out of
the training rows and out of the model's probabilities looks like a request of an intent that was
never trained (leave-class-out). A logistic model on a few views tells the two apart. Where there
are no classes, or too few, the distance to training rows and the share of words that training lacks
are added up.

Shapes: n rows, K classes, F views.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
FEWEST_CLASSES = 5
NEIGHBOURS = 5
FEWEST_ROWS = 100
MOST_RATIO = 4.0
"""Log likelihood ratios are kept within +- this, so that no single row raises an alarm."""
SMALLEST = 1e-6


@dataclass(frozen=True)
class NoveltyModel:
    """Views of a row to a log likelihood ratio in nats.

    weights None: without examples of the unknown, the sum of the views, standardised; spread: its
    deviation over reference rows.
    known, unknown: mean of `share_score` over rows of either kind, for `estimate_share`.
    """

    mean_F: Floats
    deviation_F: Floats
    weights_F: Floats | None
    intercept: float
    known: float = 0.0
    unknown: float = 1.0
    spread: float = 1.0

    def ratios(self, views_nF: Floats) -> Floats:
        """(n,) log p(views | unknown) - log p(views | known), within +-MOST_RATIO."""
        scaled = (views_nF - self.mean_F) / self.deviation_F
        if self.weights_F is None:
            strange = -scaled.sum(axis=1) / self.spread
            return np.asarray(np.clip(strange, -MOST_RATIO, MOST_RATIO))
        ratios: Floats = _expand(scaled) @ self.weights_F + self.intercept
        return np.asarray(np.clip(ratios, -MOST_RATIO, MOST_RATIO))


def plain_views(states_nH: Floats, train_TH: Floats, unknown_n: Floats) -> Floats:
    """(n, 2): mean cosine of the NEIGHBOURS nearest training rows, share of known words.

    Of single views the two tell other domains apart best, and they err on different rows: on
    nlupp's hotels among its banking requests the mean lies 1.75 and 1.8 deviations off, the sum of
    both 2.2 (bench/LOG.md).
    """
    size = min(NEIGHBOURS, len(train_TH))
    near = np.zeros(len(states_nH))
    for begin in range(0, len(states_nH), 512):
        cosines = states_nH[begin : begin + 512] @ train_TH.T
        near[begin : begin + 512] = np.partition(cosines, -size, axis=1)[:, -size:].mean(axis=1)
    return np.column_stack([near, 1 - unknown_n])


def make_views(nearness_nK: Floats, probabilities_nK: Floats) -> Floats:
    """(n, 4): nearest cosine, log odds of the answer, nearest cosine within the answered class,
    lead over the second answer.
    """
    nearest = nearness_nK.max(axis=1)
    rows = np.arange(len(nearest))
    ordered = np.sort(probabilities_nK, axis=1)
    top = np.clip(ordered[:, -1], SMALLEST, 1 - SMALLEST)
    second = np.clip(ordered[:, -2], SMALLEST, 1 - SMALLEST)
    own = nearness_nK[rows, probabilities_nK.argmax(axis=1)]
    return np.column_stack([nearest, special.logit(top), own, np.log(top / second)])


def has_classes(
    nearness_nK: Floats, probabilities_nK: Floats | None, classes_n: Ints | None
) -> bool:
    """Whether examples of the unknown can be made: probabilities, true classes, enough of both."""
    usable = probabilities_nK is not None and classes_n is not None
    return usable and nearness_nK.shape[1] >= FEWEST_CLASSES and len(nearness_nK) >= FEWEST_ROWS


def fit_plain(views_nF: Floats) -> NoveltyModel:
    """The model without classes, from the plain views of reference rows."""
    mean, deviation = views_nF.mean(axis=0), _deviation(views_nF)
    spread = float(((views_nF - mean) / deviation).sum(axis=1).std())
    return NoveltyModel(mean, deviation, None, 0.0, spread=max(spread, 1e-9))


def fit_novelty(
    nearness_nK: Floats, probabilities_nK: Floats | None, classes_n: Ints | None, *, seed: int = 17
) -> NoveltyModel:
    """The model, from reference rows for which `has_classes`. classes_n: true classes, -1 where
    unknown.
    """
    assert probabilities_nK is not None
    assert classes_n is not None
    rows = np.flatnonzero(classes_n >= 0)
    known = make_views(nearness_nK[rows], probabilities_nK[rows])
    unknown = make_views(*without_class(nearness_nK[rows], probabilities_nK[rows], classes_n[rows]))
    mean, deviation = known.mean(axis=0), _deviation(known)
    features = _expand((np.concatenate([known, unknown]) - mean) / deviation)
    truth = np.repeat([0, 1], len(rows))
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=1.0, max_iter=500, random_state=seed).fit(features, truth)
    return NoveltyModel(mean, deviation, fitted.coef_[0], float(fitted.intercept_[0]))


def without_class(
    nearness_nK: Floats, probabilities_nK: Floats, classes_n: Ints
) -> tuple[Floats, Floats]:
    """(nearness, probabilities) as if each row's own class had never been trained."""
    rows = np.arange(len(classes_n))
    nearness, probabilities = nearness_nK.copy(), probabilities_nK.copy()
    nearness[rows, classes_n] = -1.0
    probabilities[rows, classes_n] = 0.0
    total = probabilities.sum(axis=1, keepdims=True)
    return nearness, probabilities / np.maximum(total, SMALLEST)


def _expand(scaled_nF: Floats) -> Floats:
    """Views, their squares and products: distance means more where the model is sure."""
    clipped = np.clip(scaled_nF, -4, 4)
    upper = np.triu_indices(clipped.shape[1])
    products = clipped[:, upper[0]] * clipped[:, upper[1]]
    return np.concatenate([clipped, products], axis=1)


def _deviation(views_nF: Floats) -> Floats:
    deviation = views_nF.std(axis=0)
    return np.where(deviation > 1e-9, deviation, 1.0)


@dataclass(frozen=True, slots=True)
class NovelShare:
    """Share of requests unlike anything trained, with its standard error."""

    value: float
    error: float


def estimate_share(
    ratios_n: Floats, known_r: Floats, *, most: float = 0.99, steps: int = 200
) -> NovelShare:
    """The share whose mixture with known rows makes the ratios of a window likeliest.

    Maximum likelihood of p in log(1 - p + p exp(ratio)); its error from the curvature. What the
    same finds in reference rows (known_r), where the share is 0, is taken off.
    """
    value, error = _likeliest(ratios_n, most, steps)
    base, _ = _likeliest(known_r, most, steps)
    return NovelShare(max(0.0, value - base), error)


def _likeliest(ratios_n: Floats, most: float, steps: int) -> tuple[float, float]:
    if not len(ratios_n):
        return 0.0, 1.0
    gain = np.expm1(ratios_n)
    shares = np.linspace(0, most, steps)
    likelihood = np.log1p(shares[:, None] * gain).sum(axis=1)
    best = float(shares[int(likelihood.argmax())])
    curvature = float(((gain / (1 + best * gain)) ** 2).sum())
    return best, curvature**-0.5 if curvature > 0 else 1.0
