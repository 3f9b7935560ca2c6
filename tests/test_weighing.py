"""What a run measured of its own cost goes into its worth; what the recipe says goes first."""

import json
from datetime import date

import pytest

from benefit_fixture import PRICES, TODAY, make_answers
from tunewright.config import make_recipe
from tunewright.price_desk import PriceDesk, keep_asked, prices_of
from tunewright.prices import Price, Prices
from tunewright.store import RunFolder
from tunewright.weighing import alarms_per_year, measured_options, weigh

BUSINESS = {"requests_per_month": 100_000, "cost_per_error_usd": 0.5}


@pytest.fixture
def folder(tmp_path):
    """A run whose hosted systems were asked: 120 tokens tuned, 2,000 with examples, most cached."""
    found = RunFolder(tmp_path)
    lines = []
    for number in range(4):
        lines += [
            {"system": "tuned", "model": "ft:gpt-4.1-mini:o::1", "id": str(number), "text": "a",
             "input_tokens": 110 + 20 * (number % 2), "output_tokens": 30, "cached_tokens": 0,
             "priced_as": "ft:gpt-4.1-mini-2025-04-14"},
            {"system": "few_shot", "model": "gpt-4.1-mini", "id": str(number), "text": "a",
             "input_tokens": 2000, "output_tokens": 30, "cached_tokens": 1900,
             "priced_as": "gpt-4.1-mini-2025-04-14"},
            {"system": "here", "model": "x", "id": str(number), "text": "a",
             "input_tokens": 5, "output_tokens": 5, "priced_as": None},
        ]  # fmt: skip
    found.answers.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return found


def weighed(folder, business=None, provider="openai", **figures):
    recipe = make_recipe(
        {"task": "classify", "provider": provider, "base_model": "gpt-4.1-mini-2025-04-14",
         "business": BUSINESS | (business or {})}
    )  # fmt: skip
    answers = make_answers()
    answers["few_shot"] = answers.pop("tfidf_linear")
    known = {"num_rows": 100, "train_hours": 0.0, "train_kwh": None, "bill_usd": 500.0}
    return weigh(recipe, folder, answers, ("a", "b"), prices=PRICES, today=TODAY,
                 **{**known, **figures})  # fmt: skip


def test_hosted_systems_cost_what_they_were_billed_for(folder):
    """The worked example of caching, from measured tokens: $.000278 against $.000192."""
    rivals = {rival.name: rival for rival in weighed(folder).rivals}
    assert rivals["tuned"].request_usd == pytest.approx(0.000192)
    assert rivals["few_shot"].request_usd == pytest.approx(0.000278)
    assert "here" not in measured_options(folder, Prices())


def test_the_bill_is_the_cost_of_tuning_elsewhere(folder):
    assert dict(weighed(folder).costs)["training"] == 500.0
    assert dict(weighed(folder, {"train_usd": 7}).costs)["training"] == 7.0


def test_what_the_recipe_says_of_tokens_goes_first(folder):
    own = {"tuned": {"usd_per_month": 50}, "few_shot": {"input_tokens": 0}}
    worth = weighed(folder, {"options": own})
    rivals = {rival.name: rival for rival in worth.rivals}
    assert rivals["tuned"].request_usd == pytest.approx(0.000192)
    assert dict(worth.monthly)["hosting"] == 50 and rivals["few_shot"].request_usd == 0.0


def test_tuning_again_as_often_as_alarms_asked_for_it(folder):
    assert alarms_per_year(folder) == 0.0
    folder.watch.mkdir()
    year = 365.25 * 86_400
    (folder.watch / "seen.json").write_text(
        json.dumps({"first_time_s": 1e9, "last_time_s": 1e9 + year / 2})
    )
    times = [1e9, 1e9 + 5e6, 1e9 + 5e6, 1e9 + 9e6]  # one log was watched twice
    (folder.watch / "alerts.jsonl").write_text(
        "".join(json.dumps({"time_s": time}) + "\n" for time in times)
    )
    assert alarms_per_year(folder) == pytest.approx(6.0)
    worth = weighed(folder, {"retunes_per_year": "auto"})
    assert dict(worth.monthly)["tuning again"] == pytest.approx(6 * 500 / 12)


def test_an_answer_given_once_is_not_asked_for_again(tmp_path):
    folder, recipe = RunFolder(tmp_path), make_recipe({})
    desk = PriceDesk(prices_of(recipe, TODAY), TODAY, lambda name, why: 1.5)
    assert desk.price("train_tokens", "gpt-9") == 1.5
    keep_asked(desk.asked, folder)
    later = PriceDesk(prices_of(recipe, TODAY, folder), TODAY, None)
    assert later.price("train_tokens", "gpt-9") == 1.5
    assert "asked for" in later.sources[0]
    old = prices_of(recipe, date(2027, 9, 1), folder)
    assert old.look_up("train_tokens", "gpt-9", date(2027, 9, 1)).warnings
    keep_asked([], RunFolder(tmp_path / "none"))
    assert Price("kwh", "x", 1, "y", TODAY) and not (tmp_path / "none").exists()
