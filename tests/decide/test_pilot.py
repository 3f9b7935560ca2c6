"""GO, MORE DATA and STOP on curves whose truth is known, and the cost that was promised."""

import math

import numpy as np
import pytest

from tunewright.decide.curves import Goal, Point
from tunewright.decide.pilot import (
    Baseline,
    Overfit,
    choose_rate,
    decide,
    pilot_cost,
    pilot_rows,
)

ACCURACY = Goal("accuracy", 1.0, True)
SIZES = (250, 500, 1000)
FLOOR = Baseline("majority", 0.1, 0.01, True)


def curve(a, b, c=0.0, *, deviation=0.01, dice=None):
    noise = (lambda: dice.normal(0, deviation)) if dice is not None else (lambda: 0.0)
    return [Point(n, 1 - c - a * n**-b + noise(), deviation) for n in SIZES]


def test_default_pilots_cost_a_quarter_at_most():
    assert pilot_cost(thorough=False, check_rate=True) <= 0.25
    assert pilot_cost(thorough=True, check_rate=True) < 0.9


def test_rows_are_nested_shares_and_too_few_are_refused():
    assert pilot_rows(3200, thorough=False) == (100, 200, 400)
    assert pilot_rows(3200, thorough=True) == (400, 800, 1600)
    with pytest.raises(ValueError, match="train at once"):
        pilot_rows(100, thorough=False)


@pytest.mark.parametrize("seed", range(5))
def test_a_plateau_above_the_baselines_is_go(seed):
    points = curve(20.0, 1.2, 0.25, deviation=0.008, dice=np.random.default_rng(seed))
    made = decide(points, [FLOOR, Baseline("tfidf_linear", 0.6, 0.01, False)], ACCURACY, 8000)
    assert made.answer == "GO" and made.chance > 0.9
    assert made.forecast.band90[0] < 0.75 < made.forecast.band90[1]


@pytest.mark.parametrize("seed", range(5))
def test_a_steep_curve_is_more_data(seed):
    points = curve(2.2, 0.2, deviation=0.008, dice=np.random.default_rng(seed))
    made = decide(points, [FLOOR, Baseline("tfidf_linear", 0.4, 0.01, False)], ACCURACY, 8000)
    assert made.answer == "MORE DATA"
    assert made.forecast.per_doubling > 0.02 and "twice as many" in made.because[0]


@pytest.mark.parametrize("seed", range(10))
def test_chance_is_stop(seed):
    dice = np.random.default_rng(seed)
    points = [Point(n, 0.1 + dice.normal(0, 0.012), 0.012) for n in SIZES]
    made = decide(points, [FLOOR], ACCURACY, 8000)
    assert made.answer == "STOP" and "taught nothing" in made.because[0]


def test_a_strong_baseline_out_of_reach_is_stop():
    points = curve(2.0, 0.25)
    rivals = [FLOOR, Baseline("tfidf_linear", 0.97, 0.005, False)]
    made = decide(points, rivals, ACCURACY, 8000)
    assert made.answer == "STOP" and made.strongest.name == "tfidf_linear"


def test_more_rows_are_forecast_as_far_as_the_pilots_reach():
    near = decide(curve(2.2, 0.25), [FLOOR], ACCURACY, 8000)
    assert near.more == ()
    far = decide(curve(2.2, 0.25), [FLOOR], ACCURACY, 2000)
    assert [item.num_rows for item in far.more] == [4000, 8000]
    assert 0 < far.more[0].gain < far.more[1].gain


def test_a_loss_without_end_is_judged_by_its_own_size():
    goal = Goal("bits_per_byte", 0.0, False)
    steep = [Point(n, 8 * n**-0.3, 0.005) for n in SIZES]
    flat = [Point(n, 1.2 + 3 * n**-1.0, 0.005) for n in SIZES]
    assert decide(steep, [], goal, 8000).answer == "MORE DATA"
    assert decide(flat, [], goal, 8000).answer == "GO"


def test_the_usual_rate_stays_unless_another_is_clearly_better():
    assert choose_rate((1e-5, 3e-5, 9e-5), (1.0, 0.9, 0.88), 3e-5).chosen == 3e-5
    assert choose_rate((1e-5, 3e-5, 9e-5), (1.0, 0.9, 0.7), 3e-5).chosen == 9e-5
    diverged = choose_rate((1e-5, 3e-5, 9e-5), (1.0, math.nan, math.nan), 3e-5)
    assert diverged.chosen == 1e-5 and "diverged" in diverged.reason


def test_by_heart_means_most_of_the_loss_is_gone():
    assert Overfit(3.0, 0.1, 40).passed and not Overfit(3.0, 2.9, 40).passed
    assert Overfit(0.04, 0.03, 40).passed
