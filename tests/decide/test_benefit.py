"""Twenty sums worked out by hand, the algebra of break-even, and verdicts that keep their word."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tunewright.cost.money import device_usd
from tunewright.decide.benefit import (
    Doubt,
    Option,
    Range,
    Stakes,
    annuity,
    break_even,
    decide,
    electricity_usd,
    error_draws,
    exactly,
    find_value,
    gain_per_request,
    labelling_usd,
    request_usd,
    retuning_usd,
    say_usd,
    token_training_usd,
)

# gpt-4.1-mini with a long prompt, the same from the cache, and tuned with a short prompt.
LONG = Option("prompt", input_tokens=2000, output_tokens=30, input_usd=0.4, output_usd=1.6)
CACHED = replace(LONG, cached_tokens=1900, cached_usd=0.1)
TUNED = Option("tuned", input_tokens=120, output_tokens=30, input_usd=0.8, output_usd=3.2)
PLAIN = Stakes(exactly(100_000), exactly(0.5))
PERSON = Option("person", request_usd=18 * 90 / 3600)


def month(new, old, stakes, gain=0.0):
    return find_value(new, old, stakes, gain).month_usd


# (what, computed, by hand, allowed)
CASES = [
    ("prompt of 2,000, nothing cached", request_usd(LONG), 0.000848, 1e-9),
    ("tuned, prompt of 120", request_usd(TUNED), 0.000192, 1e-9),
    ("prompt of 2,000, 1,900 cached", request_usd(CACHED), 0.000278, 1e-9),
    ("requests to earn $500, nothing cached",
     break_even(500, 0, request_usd(LONG) - request_usd(TUNED), 1), 762_195.12, 0.01),
    ("requests to earn $500, cached",
     break_even(500, 0, request_usd(CACHED) - request_usd(TUNED), 1), 5_813_953.49, 0.01),
    ("caching left out overstates the saving",
     (request_usd(LONG) - request_usd(TUNED)) / (request_usd(CACHED) - request_usd(TUNED)),
     7.63, 0.005),
    ("2,000 labels of half a minute at $24", labelling_usd(2000, 0.5, 24), 400.00, 0.005),
    ("3M tokens, three passes at $.46", token_training_usd(3e6, 3, 0.46), 4.14, 0.005),
    ("12.5 kWh at 32 cents", electricity_usd(12.5, 0.32), 4.00, 0.005),
    ("four times a year $90", retuning_usd(4, 90), 30.00, 0.005),
    ("two devices for seven hours at $2.90", device_usd(7 * 3600, 2.9, count=2), 40.60, 0.005),
    ("two points at 50 cents, 100,000 a month",
     month(Option("a"), Option("b"), PLAIN, 0.02), 1000.00, 0.005),
    ("a year of $1,000 a month for $5,000",
     find_value(Option("a", build_usd=5000), Option("b"), PLAIN, 0.02).npv_usd, 7000.00, 0.005),
    ("the same at 12 % a year",
     find_value(Option("a", build_usd=5000), Option("b"), replace(PLAIN, discount=0.12), 0.02)
     .npv_usd, 6291.52, 0.005),
    ("pays back in five months",
     find_value(Option("a", build_usd=5000), Option("b"), PLAIN, 0.02).pay_back_months, 5.0, 1e-9),
    ("$1,200 over a year and $150 a month at half a cent", break_even(1200, 150, 0.005, 12),
     50_000.0, 1e-6),
    ("four tenths of a second at a fifth of a cent",
     gain_per_request(Option("a", latency_s=0.1), Option("b", latency_s=0.5),
                      replace(PLAIN, second_usd=0.002), 0.0), 0.0008, 1e-9),
    ("three points, half of them matter, $2 each",
     gain_per_request(Option("a"), Option("b"),
                      Stakes(exactly(1), exactly(2.0), relevance=0.5), 0.03), 0.03, 1e-9),
    ("a person of 90 seconds at $18, 10,000 a month",
     month(TUNED, PERSON, replace(PLAIN, requests=exactly(10_000))), 4498.08, 0.005),
    ("hosting of $400 eats a gain of $1,000 by two fifths",
     month(Option("a", month_usd=400), Option("b"), PLAIN, 0.02), 600.00, 0.005),
]  # fmt: skip


@pytest.mark.parametrize("what, computed, by_hand, allowed", CASES, ids=[c[0] for c in CASES])
def test_to_the_cent(what, computed, by_hand, allowed):
    assert computed == pytest.approx(by_hand, abs=allowed)


def test_what_never_pays():
    value = find_value(replace(TUNED, build_usd=10), Option("free"), PLAIN, 0.0)
    assert value.break_even_requests == math.inf and value.pay_back_months == math.inf


def test_an_annuity_is_the_sum_of_its_months():
    rate = 1.08 ** (1 / 12)
    assert annuity(24, 0.08) == pytest.approx(sum(rate**-m for m in range(1, 25)))
    assert annuity(7, 0.0) == 7.0


def test_break_even_by_counting_requests():
    """Request after request with its tokens and its errors, until the money is back."""
    rng = np.random.default_rng(3)
    stakes = replace(PLAIN, months=1)
    new = replace(TUNED, build_usd=200.0)
    wrong_old, wrong_new = rng.random(40_000_000) < 0.10, rng.random(40_000_000) < 0.05
    each = (
        request_usd(CACHED) - request_usd(new)
        + (wrong_old.mean() - wrong_new.mean()) * stakes.error_usd.value
    )  # fmt: skip
    algebra = find_value(new, CACHED, stakes, 0.05).break_even_requests
    assert new.build_usd / each == pytest.approx(algebra, rel=0.005)


def rows_of(ups, downs, rest):
    return np.repeat([1.0, -1.0, 0.0], [ups, downs, rest])


def test_bootstrap_of_pairs_has_their_spread():
    draws = error_draws(rows_of(60, 30, 910), None, 50_000, seed=1)
    assert draws.mean() == pytest.approx(0.03, abs=0.001)
    assert draws.std() == pytest.approx(math.sqrt((0.09 - 0.03**2) / 1000), rel=0.02)


def test_groups_are_drawn_whole():
    difference = np.repeat(rows_of(6, 3, 91), 10)
    groups = [f"g{i // 10}" for i in range(1000)]
    alone = error_draws(difference, None, 4000, seed=1).std()
    together = error_draws(difference, groups, 4000, seed=1).std()
    assert together == pytest.approx(alone * math.sqrt(10), rel=0.1)


def test_a_clear_gain_goes_and_a_clear_loss_stops():
    new, old = Option("tuned", build_usd=100), Option("base")
    gain = error_draws(rows_of(80, 10, 910), None, 5000, seed=1)
    assert decide(new, old, PLAIN, gain).word == "GO"
    assert decide(new, old, PLAIN, -gain).word == "STOP"


def test_pilot_names_what_is_worth_knowing_most():
    stakes = Stakes(exactly(100_000), Range(0.05, 0.045, 0.055))
    draws = error_draws(rows_of(22, 18, 460), None, 20_000, seed=1)
    decision = decide(Option("tuned", build_usd=400), Option("base"), stakes, draws)
    assert decision.word == "PILOT"
    assert decision.information[0][0] == "error difference"
    assert decision.information[0][1] <= decision.perfect_usd * 1.001
    assert any("Find out about error difference" in text for text in decision.because)
    assert decision.tornado[0].name == "error difference"


def test_volume_is_named_where_volume_is_in_doubt():
    stakes = Stakes(Range(20_000, 2_000, 200_000), exactly(0.05))
    draws = error_draws(rows_of(2000, 1000, 47_000), None, 20_000, seed=1)
    decision = decide(Option("tuned", build_usd=260), Option("base"), stakes, draws)
    assert decision.word == "PILOT" and decision.information[0][0] == "requests a month"


def test_a_doubtful_price_widens_the_band_and_is_named():
    price = Range(1.0, 0.2, 5.0)
    new = replace(TUNED, build_usd=100, doubts=(Doubt("hour", price, once=300.0),))
    sure = replace(new, doubts=())
    gain = np.full(20_000, 0.0001)
    wide = decide(new, Option("b"), PLAIN, gain)
    narrow = decide(sure, Option("b"), PLAIN, gain)
    assert narrow.npv95[0] == pytest.approx(narrow.npv95[1])
    assert wide.npv95[1] - wide.npv95[0] > 500
    assert wide.tornado[0].name == "hour" and wide.information[0][0] == "hour"
    low, high = sorted((wide.tornado[0].npv_low, wide.tornado[0].npv_high))
    assert high - low == pytest.approx(300 * 4.8, rel=0.05)
    assert low < narrow.npv_usd < high  # the sums hold the likely price already


def test_a_price_that_both_pay_takes_its_doubt_away():
    doubt = Doubt("input_tokens of x", Range(1.0, 0.2, 5.0), each=0.0001)
    new, old = Option("a", doubts=(doubt,)), Option("b", doubts=(doubt,))
    decision = decide(new, old, PLAIN, np.full(2000, 0.01))
    assert decision.npv95[0] == pytest.approx(decision.npv95[1])
    dear = decide(Option("a"), replace(old, doubts=(replace(doubt, each=0.0002),)), PLAIN,
                  np.full(2000, 0.01))  # fmt: skip
    assert dear.npv95[1] > decision.npv95[1]


def test_a_range_keeps_its_ends():
    draws = Range(10.0, 5.0, 40.0).draw(np.random.default_rng(1), 100_000)
    assert np.quantile(draws, 0.05) == pytest.approx(5.0, rel=0.03)
    assert np.quantile(draws, 0.95) == pytest.approx(40.0, rel=0.03)
    assert np.median(draws) == pytest.approx(10.0, rel=0.02)


@pytest.mark.parametrize(
    "value, text", [(0.0042, "$0.0042"), (12.5, "$12.50"), (-1250.4, "-$1,250"), (0, "$0.00")]
)
def test_money_is_written_with_the_digits_that_matter(value, text):
    assert say_usd(value) == text
