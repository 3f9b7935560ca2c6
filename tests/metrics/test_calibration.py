from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import special
from sklearn.metrics import log_loss
from tests.metrics.test_labels import LABELS, make_scored

from tunewright.metrics.calibration import (
    best_temperature,
    bins_of,
    confidences_of,
    fit_temperature,
    with_temperature,
)
from tunewright.metrics.table import measure
from tunewright.records import Prediction


def test_log_loss_agrees_with_sklearn() -> None:
    rows = make_scored(300, LABELS)
    theirs = log_loss([r.reference for r in rows], [r.probabilities for r in rows], labels=LABELS)
    assert measure(rows, ["log_loss"], LABELS)["log_loss"] == pytest.approx(theirs)


def test_log_loss_of_a_sure_and_wrong_answer_is_finite() -> None:
    row = replace(make_scored(1, ("a", "b"))[0], reference="a", probabilities=(0.0, 1.0))
    assert 30 < measure([row], ["log_loss"], ("a", "b"))["log_loss"] < 40


def test_ece_counted_by_hand() -> None:
    rows = [
        Prediction(str(i), "test", "x", "", "a", "a" if i % 10 < right else "b", confidence)
        for confidence, right in ((0.9, 9), (0.6, 3))
        for i in range(100)
    ]
    ours = measure(rows, ["ece", "ece_equal_width"], ("a", "b"))
    assert ours["ece"] == pytest.approx(0.15) == ours["ece_equal_width"]


def test_bins_hold_all_rows_in_order_and_equal_shares() -> None:
    rows = make_scored(1000, ("a", "b"))
    bins = bins_of(*confidences_of(rows))
    assert sum(item.count for item in bins) == 1000
    assert all(left.hi < right.lo for left, right in zip(bins, bins[1:], strict=False))
    by_hand = sum(item.count * abs(item.confidence - item.accuracy) for item in bins) / 1000
    assert measure(rows, ["ece"], ("a", "b"))["ece"] == pytest.approx(by_hand)


def test_one_confidence_for_all_rows_is_one_bin() -> None:
    bins = bins_of(np.full(50, 0.7), np.r_[np.ones(20), np.zeros(30)])
    assert len(bins) == 1
    assert math.isclose(bins[0].accuracy, 0.4)


def test_confidence_missing_leaves_ece_out() -> None:
    rows = [replace(row, confidence=None) for row in make_scored(20, ("a", "b"))]
    assert measure(rows, ["accuracy", "ece"], ("a", "b")).keys() == {"accuracy"}


@pytest.mark.parametrize("several", [False, True])
def test_a_temperature_gives_logits_their_own_scale_back(several: bool) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4000, 4))
    if several:
        truth = (rng.random(logits.shape) < special.expit(logits)).astype(np.int64)
    else:
        truth = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    assert fit_temperature(logits, truth) == pytest.approx(1.0, abs=0.05)
    assert fit_temperature(3 * logits, truth) == pytest.approx(3.0, abs=0.15)


def test_few_rows_without_a_mistake_move_the_temperature_little() -> None:
    logits = np.eye(3)[[0, 1, 2]] * 2.0
    assert 0.5 < fit_temperature(logits, np.array([0, 1, 2])) < 1.0
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, dtype=np.int64)) == pytest.approx(
        1, abs=1e-3
    )


def test_the_best_temperature_is_found_from_probabilities_alone() -> None:
    rows = make_scored(3000, LABELS)
    best = best_temperature(rows, LABELS)
    assert best_temperature(with_temperature(rows, best), LABELS) == pytest.approx(1, abs=0.02)
    assert best_temperature(with_temperature(rows, 2.0), LABELS) == pytest.approx(
        best / 2, rel=0.05
    )
    stranger = replace(rows[0], reference="never seen")
    assert best_temperature([*rows, stranger], LABELS) == pytest.approx(best)


def test_a_temperature_changes_confidences_and_no_answer() -> None:
    rows = make_scored(200, LABELS)
    cooler = with_temperature(rows, 2.0)
    assert all(
        b.confidence < a.confidence for a, b in zip(rows, cooler, strict=True) if a.confidence < 1
    )
    assert [b.prediction for b in cooler] == [a.prediction for a in rows]
    back = with_temperature(cooler, 0.5)
    for a, b in zip(rows, back, strict=True):
        assert b.probabilities == pytest.approx(a.probabilities, abs=1e-6)
