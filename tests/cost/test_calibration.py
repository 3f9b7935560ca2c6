"""Earlier forecasts widen and move the next one."""

import random

import pytest

from tunewright.cost.calibration import Record, calibrate


def records(ratios):
    return [Record(f"runs/{i}", "cpu", 100.0, 100.0 * r) for i, r in enumerate(ratios)]


def test_few_runs_change_nothing():
    assert not calibrate(records([1.5, 1.6])).used
    assert calibrate([]).factor == 1.0


def test_a_steady_bias_is_corrected():
    found = calibrate(records([1.2, 1.21, 1.19, 1.2, 1.2]))
    assert found.used and found.factor == pytest.approx(1.2)
    assert 1.15 < found.low < 1.2 < found.high < 1.25
    assert found.mean_error == pytest.approx(0.2)
    assert found.worst_under == pytest.approx(0.21)


def test_nine_of_ten_next_runs_lie_inside():
    rng = random.Random(5)
    inside = 0
    for _ in range(400):
        ratios = [rng.lognormvariate(0.1, 0.2) for _ in range(9)]
        found = calibrate(records(ratios[:8]))
        inside += found.low <= ratios[8] <= found.high
    assert 0.86 <= inside / 400 <= 0.95
