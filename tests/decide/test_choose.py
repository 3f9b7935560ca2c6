"""Ladders keep their budget, promotions extrapolate, and the smallest that is not worse is taken."""

import pytest

from tunewright.decide.choose import (
    Contender,
    Rung,
    choose,
    ladder_cost,
    plan_ladder,
    promote,
)
from tunewright.decide.curves import Goal, Point

ACCURACY = Goal("accuracy", 1.0, True)


def curve(a, b, sizes=(100, 200, 400), deviation=0.002):
    return tuple(Point(n, 1 - a * n**-b, deviation) for n in sizes)


@pytest.mark.parametrize("count", [2, 5, 12, 30])
@pytest.mark.parametrize("budget", [0.1, 0.15, 0.25, 0.5])
def test_ladders_keep_their_budget_where_three_pilots_allow_it(count, budget):
    rungs = plan_ladder(count, num_rows=100_000, least_rows=64, budget_share=budget)
    assert rungs[0].keep == count
    assert ladder_cost(rungs) <= budget * count + 1e-9
    keeps, shares = [rung.keep for rung in rungs], [rung.share for rung in rungs]
    assert keeps == sorted(keeps, reverse=True) and shares == sorted(shares)


def test_a_larger_budget_reaches_further():
    small = plan_ladder(10, num_rows=50_000, least_rows=64, budget_share=0.1)
    large = plan_ladder(10, num_rows=50_000, least_rows=64, budget_share=0.5)
    assert large[-1].share > small[-1].share


def test_few_rows_still_get_three_pilots():
    (rung,) = plan_ladder(5, num_rows=300, least_rows=64, budget_share=0.1)
    assert rung == Rung(256 / 300, 5)


def test_a_pilot_is_paid_for_once():
    assert ladder_cost((Rung(1 / 4, 4), Rung(1 / 2, 2))) == 4 * 7 / 16 + 2 * 1 / 2


def test_promotion_looks_ahead():
    curves = {"fast start": curve(1.0, 0.1), "far runner": curve(8.0, 0.4)}
    at_400 = {name: points[-1].value for name, points in curves.items()}
    assert at_400["fast start"] > at_400["far runner"]
    assert promote(curves, ACCURACY, 12_800, 1) == ["far runner"]


def test_the_smallest_that_is_not_worse_is_taken():
    contenders = (
        Contender("large", 1000, curve(2.00, 0.4)),
        Contender("small", 10, curve(2.05, 0.4)),
        Contender("tiny", 1, curve(2.0, 0.2)),
    )
    made = choose(contenders, ACCURACY, 3200, margin=0.005)
    assert (made.winner, made.best, made.runner_up) == ("small", "large", "large")
    assert made.expected_regret < 0.02
    assert "not worse" in made.because[1]
    assert choose(contenders, ACCURACY, 3200, margin=0.005, smallest=False).winner == "large"
    strict = choose(contenders, ACCURACY, 3200, margin=0.0)
    assert strict.winner == "large" and strict.runner_up == "small"


def test_regret_grows_with_doubt():
    def regret(deviation):
        both = (
            Contender("a", 1, curve(2.0, 0.4, deviation=deviation)),
            Contender("b", 2, curve(2.02, 0.4, deviation=deviation)),
        )
        return choose(both, ACCURACY, 3200, margin=0.005).expected_regret

    assert regret(0.02) > 2 * regret(0.001)


def test_a_whole_training_needs_no_forecast():
    done = Contender("done", 5, (*curve(2.0, 0.4), Point(3200, 0.9, 0.001)))
    made = choose([done], ACCURACY, 3200, margin=0.0)
    assert made.value["done"] == pytest.approx(0.9) and made.runner_up is None
