"""Intervals that hold whenever one looks, fair samples for review, clients singled out."""

from __future__ import annotations

import numpy as np
import pytest

from tunewright.monitor.novelty import estimate_share
from tunewright.monitor.outcomes import (
    choose_for_review,
    confidence_sequence,
    suspicious_clients,
)
from tunewright.monitor.outputs import (
    Calibration,
    estimate_accuracy,
    fit_calibration,
    refusals,
)


def test_confidence_sequence_holds_at_every_look():
    """60 gamblers' lives of 300 rows, looked at 10 times each: at most a tenth may ever miss."""
    rng, missed = np.random.default_rng(0), 0
    for _ in range(60):
        right = (rng.random(300) < 0.8).astype(float)
        looks = [confidence_sequence(right[:n]) for n in range(30, 301, 30)]
        missed += any(not low <= 0.8 <= high for low, high in looks)
    assert missed <= 6
    low, high = looks[-1]
    assert high - low < 0.2


def test_weights_undo_a_lopsided_review():
    rng = np.random.default_rng(1)
    confidence = rng.beta(6, 1, 4000)
    right = (rng.random(4000) < confidence).astype(float)
    review = choose_for_review(confidence, 600)
    assert len(set(review.chosen.tolist())) == 600
    plain = right[review.chosen].mean()
    weighted = np.average(right[review.chosen], weights=review.weight)
    assert abs(weighted - right.mean()) < 0.03
    assert plain < weighted  # doubtful answers were asked for more often
    order = rng.permutation(600)
    share = review.weight[order] / review.weight.mean()
    low, high = confidence_sequence(right[review.chosen][order], share)
    assert low <= right.mean() <= high


def test_no_rows_no_knowledge():
    assert confidence_sequence(np.zeros(0)) == (0.0, 1.0)


def test_the_client_that_flips_labels_is_singled_out():
    rng = np.random.default_rng(2)
    clients = [f"client-{i % 10}" for i in range(1000)]
    disagrees = (rng.random(1000) < 0.05).astype(float)
    bad = np.array([name == "client-3" for name in clients])
    assert suspicious_clients(clients, disagrees) == []
    disagrees[bad] = (rng.random(bad.sum()) < 0.9).astype(float)
    found = suspicious_clients(clients, disagrees)
    assert [name for name, *_ in found] == ["client-3"]


def test_estimate_follows_confidence_and_knows_when_it_is_blind():
    rng = np.random.default_rng(3)
    sure = rng.beta(8, 1, 5000)
    right = (rng.random(5000) < sure**2).astype(float)  # too sure of itself
    calibration = fit_calibration(sure[:3000], right[:3000])
    known = np.full(2000, -3.0)
    told = estimate_accuracy(calibration.of(sure[3000:]), known, novel_share=0, num_reference=3000)
    assert abs(told.value - right[3000:].mean()) < 0.03
    assert told.valid
    assert told.ci95[0] < right[3000:].mean() < told.ci95[1]
    blind = estimate_accuracy(sure[:10], known[:10], novel_share=0.3, num_reference=3000)
    assert not blind.valid
    assert "30 %" in blind.because


def test_few_rows_leave_confidence_alone():
    assert fit_calibration(np.ones(10), np.ones(10)) == Calibration((), ())


def test_share_of_unknown_rows_is_found():
    rng = np.random.default_rng(4)
    known, new = rng.normal(-2, 2, 4000), rng.normal(2, 2, 300)  # log ratios of two normal laws
    found = estimate_share(np.concatenate([known[:2700], new]), known)
    assert found.value == pytest.approx(0.1, abs=0.03)
    assert estimate_share(known[:1000], known).value < 0.03


@pytest.mark.parametrize(
    ("answer", "declined"),
    [("I'm sorry, but I can't help with that.", 1), ("As an AI, I have no opinion", 1),
     ("We cannot provide this information", 1), ("Your card is on its way.", 0),
     ("I cannot find the card_lost label", 0), (None, 0)],
)  # fmt: skip
def test_refusals(answer, declined):
    assert refusals([answer]).tolist() == [declined]
