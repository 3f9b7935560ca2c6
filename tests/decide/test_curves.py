"""Power laws are found again, bands hold what they promise, and reach has an end."""

import math

import numpy as np
import pytest

from tunewright.decide.curves import (
    Goal,
    Point,
    extrapolate,
    fit_three,
    fit_two,
    forecast,
    is_monotone,
)

ACCURACY = Goal("accuracy", 1.0, True)
LOSS = Goal("loss", 0.0, False)


def law(rows, a=2.0, b=0.4, c=0.0):
    return c + a * rows**-b


def points(values, sizes=(100, 200, 400), deviation=0.0):
    return [Point(n, v, deviation) for n, v in zip(sizes, values, strict=True)]


def test_a_pure_power_law_is_found_exactly():
    sizes = (100, 200, 400)
    losses = np.array([[law(n) for n in sizes]])
    log_a, b = fit_two(sizes, losses)
    assert math.isclose(math.exp(log_a[0]), 2.0, rel_tol=1e-9)
    assert math.isclose(b[0], 0.4, rel_tol=1e-9)
    c, _, _ = fit_three(sizes, losses)
    assert c[0] == 0.0
    assert extrapolate(sizes, losses, 3200)[0] == pytest.approx(law(3200), rel=1e-9)


def test_three_parameters_see_the_plateau_that_two_cannot():
    sizes = (100, 200, 400)
    losses = np.array([[law(n, a=20, b=0.9, c=0.1) for n in sizes]])
    truth = law(3200, a=20, b=0.9, c=0.1)
    three = extrapolate(sizes, losses, 3200, weight=0.0)[0]
    two = extrapolate(sizes, losses, 3200, weight=1.0)[0]
    assert abs(three - truth) < 0.2 * abs(two - truth)


def test_direction_of_the_metric_does_not_matter():
    falling = forecast(points([0.4, 0.3, 0.225]), LOSS, 800)
    rising = forecast(points([0.6, 0.7, 0.775]), ACCURACY, 800)
    assert rising.value == pytest.approx(1 - falling.value)
    assert rising.band90 == pytest.approx((1 - falling.band90[1], 1 - falling.band90[0]))
    assert rising.per_doubling == pytest.approx(falling.per_doubling) and rising.per_doubling > 0


def test_bands_hold_noisy_power_laws():
    dice = np.random.default_rng(0)
    inside = 0
    for _ in range(120):
        b, c = dice.uniform(0.1, 0.6), dice.uniform(0, 0.1)
        noisy = [1 - law(n, 1.5, b, c) + dice.normal(0, 0.012) for n in (125, 250, 500)]
        made = forecast(points(noisy, (125, 250, 500), 0.012), ACCURACY, 4000)
        inside += made.band90[0] <= 1 - law(4000, 1.5, b, c) <= made.band90[1]
    assert inside >= 0.85 * 120


def test_no_forecast_beyond_eight_times_the_largest_pilot():
    known = points([0.6, 0.7, 0.775])
    assert forecast(known, ACCURACY, 3200).num_rows == 3200
    with pytest.raises(ValueError, match="no forecast reaches so far"):
        forecast(known, ACCURACY, 3300)
    with pytest.raises(ValueError, match="two pilots"):
        forecast(known[:1], ACCURACY, 200)


def test_a_curve_that_falls_gets_no_power_law():
    assert not is_monotone(points([0.8, 0.7, 0.72], deviation=0.01), ACCURACY)
    assert is_monotone(points([0.8, 0.79, 0.82], deviation=0.01), ACCURACY)
    made = forecast(points([0.8, 0.7, 0.72], deviation=0.01), ACCURACY, 800)
    assert not made.monotone and made.value == 0.72
    assert made.band90[0] < 0.7 and made.band90[1] > 0.8


def test_more_noise_and_more_reach_widen_the_band():
    def width(deviation, at):
        low, high = forecast(points([0.6, 0.7, 0.76], deviation=deviation), ACCURACY, at).band90
        return high - low

    assert width(0.02, 800) > width(0.005, 800)
    assert width(0.005, 3200) > width(0.005, 800)


def test_a_perfect_pilot_is_no_error():
    made = forecast(points([0.98, 1.0, 1.0], deviation=0.005), ACCURACY, 3200)
    assert 0.98 < made.value <= 1.0
