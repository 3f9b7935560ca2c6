"""Thresholds: the promise holds as often as it says, and costs are counted right."""

import numpy as np
import pytest

from tunewright.decide.threshold import (
    Costs,
    alarm_from,
    cheapest_alarm,
    cost_interval,
    hand_over_below,
    mean_cost,
    rows_for_promise,
)


def draw(rng, n):
    """Confidences that are what they say: right with their own probability."""
    sure = rng.beta(5, 1, n)
    return sure, rng.random(n) < sure


def true_precision(value):
    """Of rows of `draw` at least as sure as value: the mean of Beta(5, 1) above it."""
    grid = np.linspace(value, 1, 20_001)
    density = 5 * grid**4
    return float((density * grid).sum() / density.sum())


def test_hand_over_keeps_its_promise_and_still_answers():
    rng = np.random.default_rng(1)
    found = [hand_over_below(*draw(rng, 500), precision=0.9) for _ in range(400)]
    broken = [value for value in found if value is not None and true_precision(value) < 0.9]
    assert len(broken) <= 0.05 * 400 + 3 * np.sqrt(400 * 0.05 * 0.95)
    coverage = [0.0 if value is None else 1 - value**5 for value in found]
    best = 1 - next(v for v in np.linspace(0, 1, 1001) if true_precision(v) >= 0.9) ** 5
    assert np.mean(coverage) > 0.5 * best  # a promise from 500 rows has its price


def test_false_alarms_keep_their_promise():
    rng = np.random.default_rng(2)
    rates = []
    for _ in range(400):
        rare = rng.random(800) < 0.05
        score = np.clip(rng.normal(0.3 + 0.4 * rare, 0.15), 0, 1)
        value = alarm_from(score, rare, false_alarms=0.02)
        rates.append((rng.normal(0.3, 0.15, 20_000) >= value).mean())
    assert np.mean(np.array(rates) > 0.02) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400) + 0.02
    assert np.mean(rates) > 0.005


def test_too_few_rows_promise_nothing():
    assert rows_for_promise(0.01) == 299
    few = np.full(50, 0.99)
    assert hand_over_below(few, np.ones(50, dtype=bool), precision=0.95) is None
    assert alarm_from(few, np.zeros(50, dtype=bool), false_alarms=0.01) is None
    many = np.linspace(0, 1, 400)
    assert hand_over_below(many, np.zeros(400, dtype=bool), precision=0.95) is None
    assert alarm_from(many, np.zeros(400, dtype=bool), false_alarms=0.01) == pytest.approx(
        1, abs=0.01
    )


def test_equal_confidences_go_together():
    sure = np.r_[np.full(300, 0.9), np.full(300, 0.5)]
    right = np.r_[np.ones(300, dtype=bool), np.zeros(300, dtype=bool)]
    assert hand_over_below(sure, right, precision=0.9) == 0.9
    scores = np.r_[np.full(990, 0.1), np.full(10, 0.8)]
    value = alarm_from(scores, np.zeros(1000, dtype=bool), false_alarms=0.005)
    assert value > 0.8  # the ten stand or fall together


def test_all_right_answers_everything():
    assert hand_over_below(np.linspace(0.2, 1, 400), np.ones(400, dtype=bool), precision=0.9) == 0.2


@pytest.mark.parametrize("miss", [1, 10, 100])
def test_the_cheapest_alarm_is_the_cheapest(miss):
    rng = np.random.default_rng(3)
    rare = rng.random(400) < 0.1
    score = np.round(np.clip(rng.normal(0.3 + 0.3 * rare, 0.15), 0, 1), 2)
    costs = Costs(miss, 1)
    least = mean_cost(score >= cheapest_alarm(score, rare, costs), rare, costs)
    assert (
        least <= min(mean_cost(score >= t, rare, costs) for t in np.linspace(0, 1.01, 203)) + 1e-12
    )


def test_a_rate_of_production_moves_the_threshold():
    rng = np.random.default_rng(4)
    rare = rng.random(2000) < 0.3
    score = np.clip(rng.normal(0.3 + 0.3 * rare, 0.15), 0, 1)
    often = cheapest_alarm(score, rare, Costs(10, 1))
    seldom = cheapest_alarm(score, rare, Costs(10, 1, rate=0.001))
    assert seldom > often


def test_costs_by_hand():
    alarm = np.array([True, False, True, False, False])
    rare = np.array([True, True, False, False, False])
    assert mean_cost(alarm, rare, Costs(10, 1)) == pytest.approx((10 + 1) / 5)
    assert mean_cost(alarm, rare, Costs(10, 1, rate=0.1)) == pytest.approx(0.1 * 5 + 0.9 / 3)
    low, high = cost_interval(alarm, rare, Costs(10, 1), seed=1)
    assert low < 2.2 < high
