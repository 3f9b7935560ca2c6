"""Promotions look ahead, range tests find the slope, and the best trial is a whole one."""

import math

import pytest

from tunewright.decide.curves import Goal, Point
from tunewright.decide.search import (
    TrialRow,
    best_trial,
    find_range,
    goes_on,
    rungs_for,
)

ACCURACY = Goal("accuracy", 1.0, True)


def curve(a, b, sizes=(100, 300)):
    return [Point(n, 1 - a * n**-b) for n in sizes]


def test_rungs_end_at_all_rows():
    assert rungs_for(900, "asha") == (100, 300, 900)
    assert rungs_for(900, "none") == (900,)
    assert [rungs_for(900, "hyperband", i)[0] for i in range(4)] == [100, 300, 900, 100]
    assert rungs_for(40, "asha") == (32, 40)


def test_nobody_is_stopped_before_there_is_a_third():
    mine = curve(2.0, 0.1)
    assert goes_on(mine, [], ACCURACY, 900)
    assert goes_on(mine, [curve(1.0, 0.5)], ACCURACY, 900)
    assert not goes_on(mine, [curve(1.0, 0.5), curve(1.0, 0.4)], ACCURACY, 900)
    assert goes_on(curve(1.0, 0.6), [curve(1.0, 0.5), curve(1.0, 0.4)], ACCURACY, 900)


def test_a_slow_start_that_leads_further_is_promoted():
    late = curve(9.0, 0.45)
    early = [curve(0.8, 0.05), curve(0.81, 0.05)]
    assert late[-1].value < early[0][-1].value
    assert goes_on(late, early, ACCURACY, 100_000)


def test_only_what_stands_at_the_rung_is_compared():
    far = curve(1.0, 0.5, (100, 300, 900))
    assert goes_on([Point(100, 0.95)], [far, far], ACCURACY, 900)


def test_a_range_test_finds_where_training_works():
    rates = [10 ** (-6 + 6 * i / 59) for i in range(60)]
    losses = [
        4.0 - 3.0 / (1 + math.exp(-3 * (math.log10(r) + 4))) + (30 * r if r > 1e-2 else 0)
        for r in rates
    ]
    made = find_range(rates, losses)
    assert 1e-6 < made.low < made.steepest < 1e-2
    assert made.low < made.high < 0.05
    with pytest.raises(ValueError, match="five steps"):
        find_range(rates[:3], losses[:3])


def test_the_best_is_a_whole_trial_and_earlier_ones_win_ties():
    def row(number, state, value):
        return TrialRow(number, state, {}, (), value, 1.0)

    rows = [
        row(0, "pruned", None),
        row(1, "complete", 0.8),
        row(2, "complete", 0.9),
        row(3, "complete", 0.9),
    ]
    assert best_trial(rows, ACCURACY).number == 2
    assert best_trial(rows[:1], ACCURACY) is None
