"""From a run, a business section and prices to a decision; what is missing is named."""

from datetime import date

import pytest

from benefit_fixture import BUSINESS, TODAY, make_answers, make_worth
from tunewright.config import make_recipe
from tunewright.errors import RecipeError
from tunewright.price_desk import MissingFigureError
from tunewright.prices import Price, Prices
from tunewright.worth import worth_document


def test_costs_are_itemised_to_the_cent():
    worth = make_worth()
    assert dict(worth.costs) == pytest.approx({"labelling": 400.0, "training": 0.2, "people": 384})
    # four times a year the training once more, a twelfth of it a month
    assert dict(worth.monthly) == pytest.approx(
        {"hosting": 120, "monitoring": 40, "tuning again": 0.2 * 4 / 12}
    )
    assert worth.tuned.build_usd == pytest.approx(784.2)


def test_the_cheapest_other_way_is_what_is_replaced():
    worth = make_worth()
    assert worth.decision.against == "hosted"  # 12 % wrong beats 22 % wrong and 45 cents a request
    assert make_worth({"instead_of": "tfidf_linear"}).decision.word == "GO"
    with pytest.raises(RecipeError, match=r"instead_of is 'nobody'"):
        make_worth({"instead_of": "nobody"})


def test_rivals_carry_their_errors_in_money():
    rivals = {rival.name: rival for rival in make_worth().rivals}
    assert rivals["person"].errors_usd == pytest.approx(100_000 * 0.04 * 0.5)
    assert rivals["person"].month_usd == pytest.approx(45_000 + 2_000)
    assert rivals["hosted"].request_usd == pytest.approx(0.000278)
    assert not rivals["hosted"].measured and rivals["tuned"].measured


def test_a_missing_price_is_asked_for_and_else_refused():
    with pytest.raises(MissingFigureError, match="no device_hour for this"):
        make_worth(prices=Prices())
    asked = []
    worth = make_worth(prices=Prices(), ask=lambda name, why: asked.append(name) or 2.0)
    assert asked == ["device_hour.this"] and dict(worth.costs)["training"] == 1.0
    assert any("asked for" in text for text in worth.sources)
    with pytest.raises(MissingFigureError):
        make_worth(prices=Prices(), ask=lambda name, why: None)


def test_a_conflict_is_asked_for():
    two = [Price("device_hour", "this", usd, f"page {usd}", TODAY) for usd in (1.0, 2.0)]
    with pytest.raises(MissingFigureError, match="disagree"):
        make_worth(prices=Prices(table=[*two, *Prices().table]))
    asked = []
    make_worth(
        prices=Prices(table=[*two, *Prices().table]),
        ask=lambda name, why: asked.append(why) or 1.0,
    )
    assert "page 1.0" in asked[0] and "page 2.0" in asked[0]


def test_a_stale_price_warns():
    old = Price("device_hour", "this", 1.0, "an old bill", date(2026, 1, 1))
    worth = make_worth(prices=Prices([old]))
    assert any("327 days ago" in text for text in worth.warnings)


def test_energy_counts_where_it_is_wanted_and_its_carbon_is_told():
    own = [Price("device_hour", "this", 0.0, "ours", TODAY), Price("kwh", "here", 0.32, "x", TODAY)]
    worth = make_worth({"electricity": True}, prices=Prices(own), train_kwh=12.5)
    assert dict(worth.costs)["electricity"] == pytest.approx(4.00)
    assert dict(worth.monthly)["tuning again"] == pytest.approx(4 * 4.00 / 12)
    assert worth.train_kwh == 12.5 and worth.train_co2_kg is None  # nobody knows the grid
    grid = [*own, Price("carbon_kg", "here", 0.4, "the grid's report", TODAY)]
    told = make_worth({"electricity": True, "train_kwh": 10}, prices=Prices(grid))
    assert told.train_co2_kg == pytest.approx(4.0)
    assert make_worth(prices=Prices(grid), train_kwh=12.5).train_kwh is None  # not wanted
    with pytest.raises(MissingFigureError, match="give business.train_kwh"):
        make_worth({"electricity": True}, prices=Prices(own))
    with pytest.raises(MissingFigureError, match="no kwh for here"):
        make_worth({"electricity": True}, prices=Prices(own[:1]), train_kwh=1.0)


def test_a_prompt_too_short_for_the_cache_pays_in_full():
    hosted = {**BUSINESS["options"]["hosted"], "input_tokens": 800, "cached_tokens": 700}
    worth = make_worth({"options": {**BUSINESS["options"], "hosted": hosted}})
    rival = next(r for r in worth.rivals if r.name == "hosted")
    assert rival.request_usd == pytest.approx(800 * 0.4e-6 + 30 * 1.6e-6)
    assert any("caches prompts from 1,024 tokens" in text for text in worth.warnings)


def test_a_price_with_a_range_brings_its_doubt_along():
    wide = Price("device_hour", "this", 4.0, "two vendors", TODAY, low=1.0, high=9.0)
    worth = make_worth(prices=Prices([wide]), train_hours=500.0)
    (doubt,) = worth.tuned.doubts
    assert doubt.name == "device_hour of this" and doubt.once == 500.0
    assert "device_hour of this" in {bar.name for bar in worth.decision.tornado}
    sure = make_worth(prices=Prices([Price("device_hour", "this", 4.0, "bill", TODAY)]),
                      train_hours=500.0)  # fmt: skip
    assert sure.tuned.doubts == ()


@pytest.mark.parametrize(
    "business, match",
    [
        ({"requests_per_month": None}, "requests_per_month is not set"),
        ({"cost_per_error_usd": [1, 0.5, 2]}, "rising order"),
        ({"options": {"other": {"usd_per_request": 1}}}, "options.other.error_rate"),
        (
            {"options": {"x": {"input_tokens": 5, "cached_tokens": 9, "error_rate": 0}}},
            "more than its input_tokens",
        ),
        (
            {"options": {"x": {"model": "gpt-9", "input_tokens": 5, "error_rate": 0}}},
            "no input_tokens for gpt-9",
        ),
    ],
)
def test_what_is_wrong_is_named_by_its_key(business, match):
    with pytest.raises(RecipeError, match=match):
        make_worth(business)


def test_unknown_keys_inside_an_option_are_told_with_the_nearest():
    with pytest.raises(RecipeError, match=r"options\.x\.input_token; did you mean input_tokens"):
        make_recipe({"business": {"options": {"x": {"input_token": 5}}}})


def test_numbers_are_not_right_or_wrong():
    recipe = make_recipe({"task": "regress", "business": BUSINESS})
    from tunewright.worth import find_worth

    with pytest.raises(RecipeError, match="not right or wrong"):
        find_worth(
            recipe, make_answers(), (), num_rows=1, train_hours=1, prices=Prices(), today=TODAY
        )


def test_the_document_is_plain_and_whole():
    document = worth_document(make_worth())
    assert document["verdict"] in ("GO", "PILOT", "STOP")
    assert len(document["gain_quantiles"]) == 200
    assert {row["name"] for row in document["rivals"]} == {
        "tuned", "tfidf_linear", "hosted", "person",
    }  # fmt: skip
