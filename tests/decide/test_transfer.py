"""Probes see what is linearly there, and agree with plainer forms of their definitions."""

import numpy as np
import pytest
from scipy.optimize import minimize

from tunewright.decide.transfer import h_score, logme, one_hot, ridge_probe


@pytest.fixture
def data():
    dice = np.random.default_rng(1)
    labels = dice.integers(0, 4, 240)
    signal = np.eye(4)[labels] @ dice.normal(size=(4, 12)) * 1.5 + dice.normal(size=(240, 12))
    return labels, signal, dice.normal(size=(240, 12))


def test_every_score_prefers_features_that_hold_the_labels(data):
    labels, signal, noise = data
    targets = one_hot(labels, 4)
    assert logme(signal, targets) > logme(noise, targets)
    assert h_score(signal, labels) > 10 * h_score(noise, labels)

    def accuracy(features):
        scores = ridge_probe(features[:160], targets[:160], features[160:])
        return float((scores.argmax(1) == labels[160:]).mean())

    assert accuracy(signal) > 0.8 > 0.45 > accuracy(noise)


def test_both_forms_of_ridge_agree(data):
    labels, signal, _ = data
    targets = one_hot(labels, 4)
    wide = np.hstack([signal, np.zeros((240, 300))])  # more features than rows, none of them new
    few, many = (
        ridge_probe(signal[:160], targets[:160], signal[160:]),
        ridge_probe(wide[:160], targets[:160], wide[160:]),
    )
    assert np.allclose(few, many, atol=1e-6)


def test_logme_is_the_evidence_at_its_best(data):
    """Against a search over both precisions, with the evidence written out densely."""
    labels, signal, _ = data
    target = one_hot(labels, 4)[:, 0]
    features = signal - signal.mean(axis=0)
    centred = target - target.mean()

    def evidence(logs):
        alpha, beta = np.exp(logs)
        covariance = features @ features.T / alpha + np.eye(240) / beta
        sign, size = np.linalg.slogdet(covariance)
        assert sign > 0
        fit = centred @ np.linalg.solve(covariance, centred)
        return 0.5 * (240 * np.log(2 * np.pi) + size + fit) / 240

    best = -minimize(evidence, np.log([100.0, 10.0]), method="Nelder-Mead").fun
    assert logme(signal, target[:, None]) == pytest.approx(best, abs=1e-4)


def test_h_score_is_bounded_by_the_number_of_classes(data):
    labels, signal, _ = data
    exact = np.eye(4)[labels]
    assert 0 < h_score(signal, labels) < 3
    assert 2.5 < h_score(exact[:, :3] + 1e-6 * signal[:, :3], labels) <= 3.01
