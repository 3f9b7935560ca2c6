"""Prices: dated, sourced, overridable; missing, stale and conflicting ones are never guessed."""

from datetime import date

import pytest

from tunewright.errors import RecipeError
from tunewright.prices import KINDS, TABLE, Price, Prices, cached_from, read_prices

TODAY = date(2026, 11, 24)


def test_every_price_has_source_and_date():
    assert TABLE
    for price in TABLE:
        assert price.source and price.read_on <= TODAY and price.kind in KINDS and price.usd > 0


def test_a_known_price():
    found = Prices().look_up("input_tokens", "gpt-4.1-mini", TODAY)
    assert found.usd == 0.40 and "litellm" in found.source and not found.warnings


def test_a_missing_price_is_a_problem_with_the_nearest_name():
    found = Prices().look_up("input_tokens", "gpt-4.1-mino", TODAY)
    assert found.usd is None and "gpt-4.1-mini" in found.problem


def test_an_old_price_warns():
    found = Prices().look_up("device_hour", "L40S", TODAY)
    assert found.usd == 0.87 and "328 days ago" in found.warnings[0]
    fresh = Prices(table=[Price("kwh", "here", 0.3, "bill", date(2026, 5, 28))])
    assert not fresh.look_up("kwh", "here", TODAY).warnings
    assert fresh.look_up("kwh", "here", date(2026, 11, 25)).warnings


def test_what_a_tuned_model_costs_stands_beside_its_base():
    prices = Prices()
    for base in ("gpt-4.1", "gpt-4.1-mini", "gpt-4.1-nano", "gpt-4o", "gpt-4o-mini", "o4-mini"):
        for kind in ("input_tokens", "cached_input_tokens", "output_tokens"):
            plain = prices.look_up(kind, base, TODAY).usd
            tuned = prices.look_up(kind, f"ft:{base}", TODAY).usd
            assert plain is not None and plain < tuned < 5 * plain
        assert (
            prices.look_up("cached_input_tokens", base, TODAY).usd
            < prices.look_up("input_tokens", base, TODAY).usd
        )


def test_short_prompts_are_not_cached():
    assert cached_from("gpt-4.1-mini")[0] == cached_from("ft:gpt-4.1")[0] == 1024
    assert cached_from("gemini-2.5-flash")[0] == 2048 and "2026" in cached_from("gemini-3.5")[1]
    assert cached_from("a model of ours") is None


def test_what_a_person_said_counts_after_the_users_own_file():
    own = Prices([Price("kwh", "here", 0.3, "bill", TODAY)])
    said = [Price("kwh", "here", 0.5, "asked for", TODAY), Price("kwh", "x", 0.6, "asked", TODAY)]
    both = own.after(said)
    assert both.look_up("kwh", "here", TODAY).usd == 0.3
    assert both.look_up("kwh", "x", TODAY).usd == 0.6


def test_sources_that_disagree_settle_nothing():
    found = Prices().look_up("train_tokens", "gpt-4o-mini", TODAY)
    assert found.usd is None and (found.low, found.high) == (1.0, 25.0)
    assert "disagree" in found.problem


def test_own_figures_go_first(tmp_path):
    path = tmp_path / "prices.yaml"
    path.write_text(
        "device_hour: {H100-80GB: 2.4, mine: {usd: 1, source: bill, read_on: 2026-01-02}}\n"
        "kwh: 0.31\n"
    )
    prices = read_prices(path, TODAY)
    assert prices.look_up("device_hour", "h100-80gb", TODAY).usd == 2.4
    assert prices.look_up("kwh", "here", TODAY).usd == 0.31
    assert prices.look_up("device_hour", "mine", TODAY).warnings


@pytest.mark.parametrize(
    "text, match",
    [
        ("device_hours: {x: 1}", "did you mean device_hour"),
        ("device_hour: {x: cheap}", "give a number"),
        ("device_hour: {x: {price: 1}}", "unknown key price"),
        ("device_hour: {x: {usd: 1, read_on: soon}}", "2026-11-24"),
        ("device_hour: {x: -1}", "give a number"),
        ("device_hour: {x: {source: me}}", "no usd"),
        ("device_hour: {x: 1", "not valid YAML"),
        ("- 5", "a file of prices is a table"),
        ("device_hour: [1, 2]", "must be a number, or names"),
        ("device_hour: {x: .nan}", "give a number"),
        ("device_hour: {x: {usd: 2, low: 3, high: 1}}", "low, usd and high in rising order"),
    ],
)
def test_bad_files_are_told_in_one_line(tmp_path, text, match):
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=match) as told:
        read_prices(path, TODAY)
    assert str(path) in str(told.value)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        read_prices(tmp_path / "none.yaml", TODAY)
