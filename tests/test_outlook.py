"""Before training: what must be saved, and a decision where forecasts allow one."""

import math

import pytest

from benefit_fixture import BUSINESS, PRICES, TODAY
from tunewright.config import make_recipe
from tunewright.decide.benefit import Option, Range, Stakes, exactly, find_value
from tunewright.outlook import (
    Measured,
    forecast_error,
    make_outlook,
    needed_gain,
    shortest_outlook,
)
from tunewright.prices import Prices

SIMPLE = {"requests_per_month": 100_000, "cost_per_error_usd": 0.5}


def outlook(business, **figures):
    recipe = make_recipe({"task": "classify", "business": business})
    known = {"num_rows": 2000, "train_usd": 12.0, "train_hours": 1.0, "prices": PRICES}
    return make_outlook(recipe, today=TODAY, **{**known, **figures})


def test_needed_gain_is_where_the_value_is_zero():
    new = Option("tuned", build_usd=5000, month_usd=40, request_usd=0.001)
    old = Option("old", month_usd=10, request_usd=0.002, latency_s=0.2)
    stakes = Stakes(exactly(20_000), exactly(0.3), relevance=0.8, discount=0.08, second_usd=0.001)
    gain = needed_gain(new, old, stakes)
    assert find_value(new, old, stakes, gain).npv_usd == pytest.approx(0, abs=1e-6)
    assert needed_gain(new, old, Stakes(exactly(20_000), exactly(0.0))) == math.inf


def test_by_hand_without_anything_measured():
    made = outlook({**SIMPLE, "discount_per_year": 0.0, "people_hours": 10, "usd_per_hour": 60})
    assert dict(made.costs) == {"training": 12.0, "people": 600.0}
    assert made.decision is None and made.against == "today's way"
    # 612 dollars over 12 months of 100,000 requests at 50 cents an error
    assert made.needed_gain == pytest.approx(612 / 12 / 50_000)
    assert "0.1 errors saved in every 100 answers" in " ".join(made.because)


def test_the_recipes_own_error_rates_give_a_decision():
    options = {"tuned": {"error_rate": 0.03}, "person": {"error_rate": 0.05}}
    made = outlook({**SIMPLE, "options": options})
    assert made.decision is not None and made.decision.word == "GO"
    assert made.decision.value.month_usd == pytest.approx(100_000 * 0.02 * 0.5)
    worse = {"tuned": {"error_rate": 0.06}, "person": {"error_rate": 0.05}}
    assert outlook({**SIMPLE, "options": worse}).decision.word == "STOP"


def test_a_pilots_forecast_brings_its_doubt_along():
    rivals = {"tfidf_linear": Measured(0.12, 0.02)}
    wide = outlook(SIMPLE, tuned_error=Range(0.12, 0.06, 0.20), rivals=rivals)
    sure = outlook(SIMPLE, tuned_error=Range(0.05, 0.045, 0.055), rivals=rivals)
    assert wide.decision.word == "PILOT" and sure.decision.word == "GO"
    assert sure.against == "tfidf_linear"


def test_a_share_of_right_answers_becomes_errors_and_nothing_else_does():
    made = forecast_error("accuracy", 0.9, (0.85, 0.93))
    assert (made.value, made.low, made.high) == pytest.approx((0.1, 0.07, 0.15))
    assert forecast_error("f1_macro", 0.9, (0.85, 0.93)) is None


def test_no_business_says_nothing_and_a_missing_price_says_which():
    figures = {"num_rows": 9, "train_usd": None, "train_hours": 1.0, "prices": Prices()}
    assert shortest_outlook(make_recipe({}), today=TODAY, **figures) is None
    found = shortest_outlook(make_recipe({"business": SIMPLE}), today=TODAY, **figures)
    assert "device_hour" in found["missing"] and found["because"]


def test_the_fixture_of_benefit_has_an_outlook_too():
    made = shortest_outlook(
        make_recipe({"task": "classify", "business": BUSINESS}), today=TODAY, num_rows=2000,
        train_usd=0.2, train_hours=0.5, prices=PRICES, tuned_error=Range(0.1, 0.08, 0.12),
        rivals={"tfidf_linear": Measured(0.22, 0.01)},
    )  # fmt: skip
    assert made["verdict"] in ("GO", "PILOT", "STOP")
    assert sum(row["usd"] for row in made["costs"]) == pytest.approx(784.2)  # as benefit's own
