"""What requests look like: length, language, words never seen, repeats, distance to training rows.

One number (or vector) a row; what counts as too much is for rules.py. Shapes: n rows, H width of
an embedding, D random features, T training rows, K classes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunewright.data.audit.language import tell_language

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
WORD = re.compile(r"[^\W\d_]{2,}")
NUM_FEATURES = 128
NEAR = 0.95
"""Cosine from which two requests of one batch count as the same question."""
NUM_COMPONENTS = 32
SHRINKAGE = 1.0


def lengths_of(texts: Sequence[str]) -> Floats:
    """(n,) log of 1 + characters: lengths are skewed, their logs hardly."""
    return np.log1p(np.array([len(text) for text in texts], dtype=np.float64))


def words_of(text: str) -> list[str]:
    """Lower-case words of two letters or more; numbers and marks are left out."""
    return [word.lower() for word in WORD.findall(text)]


def unknown_shares(texts: Sequence[str], known: Collection[str]) -> Floats:
    """(n,) share of the words of each text that no training text holds; 0 without words."""
    shares = np.zeros(len(texts))
    for row, text in enumerate(texts):
        words = words_of(text)
        if words:
            shares[row] = sum(word not in known for word in words) / len(words)
    return shares


def foreign(texts: Sequence[str], usual: Collection[str]) -> Floats:
    """(n,) 1 where the text is surely in another language than training's, else 0."""
    codes = [tell_language(text) for text in texts]
    return np.array([float(code is not None and code not in usual) for code in codes])


def unit_rows(states: Floats) -> Floats:
    """Rows scaled to length 1; rows of zeros stay."""
    lengths = np.linalg.norm(states, axis=1, keepdims=True)
    return np.asarray(states / np.where(lengths > 0, lengths, 1.0), dtype=np.float64)


def class_nearness(
    states_nH: Floats, train_TH: Floats, classes_T: Ints, num_classes: int, *, chunk: int = 512
) -> Floats:
    """(n, K) cosine of each row to the nearest training row of each class; -1 for an empty one."""
    order = np.argsort(classes_T, kind="stable")
    sorted_TH, sorted_T = train_TH[order], classes_T[order]
    present, starts = np.unique(sorted_T, return_index=True)
    nearness = np.full((len(states_nH), num_classes), -1.0)
    for begin in range(0, len(states_nH), chunk):
        part = slice(begin, begin + chunk)
        cosines = states_nH[part] @ sorted_TH.T
        nearness[part, present] = np.maximum.reduceat(cosines, starts, axis=1)
    return nearness


def largest_flood(states_nH: Floats) -> tuple[int, NDArray[np.intp]]:
    """(rows of the largest set of near-equal requests, which): cosine NEAR to one of them."""
    near = states_nH @ states_nH.T >= NEAR
    counts = near.sum(axis=1)
    middle = int(counts.argmax()) if len(counts) else 0
    return (int(counts[middle]), np.flatnonzero(near[middle])) if len(counts) else (0, counts)


@dataclass(frozen=True)
class RandomFeatures:
    """Random Fourier features of a Gaussian kernel (Rahimi and Recht 2007).

    The squared distance between the mean features of two samples estimates the squared maximum
    mean discrepancy (Gretton et al. 2012). The kernel's width is the median distance.
    """

    directions_HD: Floats
    phases_D: Floats

    def of(self, states_nH: Floats) -> Floats:
        """(n, D) features whose inner products approximate the kernel."""
        scale = np.sqrt(2.0 / len(self.phases_D))
        return np.asarray(scale * np.cos(states_nH @ self.directions_HD + self.phases_D))


def make_features(states_nH: Floats, *, size: int = NUM_FEATURES, seed: int = 17) -> RandomFeatures:
    """Features whose kernel is as wide as the median distance between rows."""
    rng = np.random.default_rng(seed)
    some = states_nH[rng.permutation(len(states_nH))[:400]]
    squares = np.maximum(2 - 2 * some @ some.T, 0)[np.triu_indices(len(some), 1)]
    width = float(np.sqrt(np.median(squares))) if squares.size else 1.0
    directions = rng.normal(size=(states_nH.shape[1], size)) / max(width, 1e-6)
    return RandomFeatures(directions, rng.uniform(0, 2 * np.pi, size))


@dataclass(frozen=True)
class DomainClassifier:
    """Tells traffic from reference rows by a linear model on the main directions of embeddings.

    separation() is the AUC of leave-one-out scores: .5 where the two are alike. It judges the
    model's own training rows fairly, and costs one small system of equations (the ridge hat).
    """

    components_HC: Floats
    centre_H: Floats
    reference_rC: Floats

    def project(self, states_nH: Floats) -> Floats:
        """(n, C) coordinates along the main directions."""
        return np.asarray((states_nH - self.centre_H) @ self.components_HC)

    def separation(self, window_wC: Floats, reference_rC: Floats | None = None) -> float:
        """AUC with which the window is told from the reference; both as `project` gives them."""
        return float(rank_auc(*self._scores(window_wC, reference_rC)))

    def scores(self, window_wC: Floats) -> Floats:
        """(w,) how much each row looks like traffic that the reference does not know."""
        return self._scores(window_wC, None)[0]

    def _scores(self, window_wC: Floats, reference_rC: Floats | None) -> tuple[Floats, Floats]:
        reference = self.reference_rC if reference_rC is None else reference_rC
        rows = np.concatenate([window_wC, reference])
        truth = np.concatenate([np.ones(len(window_wC)), np.zeros(len(reference))])
        # Each side weighs the same, whatever its number of rows.
        weight = np.where(truth > 0, 0.5 / len(window_wC), 0.5 / len(reference)) * len(rows)
        design = np.column_stack([np.ones(len(rows)), rows / _spread(reference)])
        gram = (design * weight[:, None]).T @ design + SHRINKAGE * np.eye(design.shape[1])
        inverse = np.linalg.inv(gram)
        fitted = design @ (inverse @ (design.T @ (weight * truth)))
        hat = ((design @ inverse) * design).sum(axis=1) * weight
        left_out = (fitted - hat * truth) / np.maximum(1 - hat, 1e-6)
        return left_out[: len(window_wC)], left_out[len(window_wC) :]


def make_domain_classifier(
    states_nH: Floats, *, most: int = 400, seed: int = 17
) -> DomainClassifier:
    """A domain classifier that compares with at most `most` of these reference rows."""
    centre = states_nH.mean(axis=0)
    size = min(NUM_COMPONENTS, states_nH.shape[1], max(1, len(states_nH) - 1))
    _, _, axes = np.linalg.svd(states_nH[:4000] - centre, full_matrices=False)
    components = axes[:size].T
    chosen = np.random.default_rng(seed).permutation(len(states_nH))[:most]
    return DomainClassifier(components, centre, (states_nH[chosen] - centre) @ components)


def rank_auc(positive: Floats, negative: Floats) -> float:
    """Chance that a positive score is above a negative one; ties count half."""
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, "left") + np.searchsorted(ordered, positive, "right")
    return float(below.mean() / (2 * len(negative)))


def _spread(rows: Floats) -> Floats:
    deviation = rows.std(axis=0)
    return np.where(deviation > 1e-9, deviation, 1.0)
