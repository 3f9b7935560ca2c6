"""From a run, a business section and prices to a decision; what is missing is named."""

from datetime import date

import pytest

from benefit_fixture import BUSINESS, TODAY, make_answers, make_worth
from tunewright.config import make_recipe
from tunewright.errors import RecipeError
from tunewright.prices import Price, Prices
from tunewright.worth import MissingFigureError, worth_document


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
