"""A whole pilot on planted rows: its answer, its files, what a second call does not repeat."""

import json

import pytest

from planted_rows import make_values
from tunewright.cli.main import run
from tunewright.config import make_recipe, read_recipe
from tunewright.errors import DataError
from tunewright.journal import silence
from tunewright.piloting import pilot
from tunewright.trial import nested_order, with_rows


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("pilot")


@pytest.fixture(scope="module")
def values(place):
    values = make_values(place)
    values["training"].pop("learning_rate")  # type: ignore[attr-defined]
    values["business"] = {"requests_per_month": 5000, "cost_per_error_usd": 1, "train_usd": 3}
    return values


@pytest.fixture(scope="module")
def made(place, values):
    return pilot(make_recipe(values), place / "pilot", silence())


def test_the_answer_rests_on_three_nested_pilots(made):
    assert [trial.num_rows for trial in made.trials] == [14, 28, 56]
    assert made.answer.forecast.num_rows == 450
    low, high = made.answer.forecast.band90
    assert low <= made.answer.forecast.value <= high
    assert {item.name for item in made.baselines} == {"majority", "tfidf_linear"}
    assert made.rate_check is not None and len(made.rate_check.rates) == 3
    assert made.overfit.steps == 40


def test_its_folder_holds_the_answer_the_page_and_the_recipe(made, place, values):
    folder = place / "pilot"
    document = json.loads((folder / "pilot.json").read_text())
    assert document["answer"] == made.answer.answer and len(document["points"]) == 3
    page = (folder / "pilot.html").read_text()
    assert made.answer.answer in page and "https://" not in page and "http://" not in page
    worth = document["benefit"]  # by forecast, in the page too
    assert worth["costs"] == [{"what": "training", "usd": 3.0}] and worth["verdict"]
    assert worth["because"][0] in page
    whole = read_recipe(folder / "recipe.yaml")
    assert whole.base_model == values["base_model"]


def test_a_second_call_measures_nothing_again(made, place, values):
    before = (place / "pilot" / "trials.jsonl").read_text()
    again = pilot(make_recipe(values), place / "pilot", silence())
    assert (place / "pilot" / "trials.jsonl").read_text() == before
    assert [t.value for t in again.trials] == [t.value for t in made.trials]


def test_the_command_answers_in_json_and_stops_with_1(tmp_path, capsys):
    values = make_values(tmp_path, shuffled=True)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(values))
    status = run(["pilot", str(recipe), "--dir", str(tmp_path / "p"), "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["answer"] == "STOP" and status == 1
    assert document["because"] and document["rate_check"] is None


def test_too_few_rows_and_no_validation_are_told(tmp_path):
    values = make_values(tmp_path, num_rows=150)
    with pytest.raises(DataError, match="train at once"):
        pilot(make_recipe(values), tmp_path / "p", silence())
    data = {**values["data"], "validation": 0.0}  # type: ignore[dict-item]
    with pytest.raises(DataError, match="validation"):
        pilot(make_recipe({**values, "data": data}), tmp_path / "p", silence())


def test_beginnings_of_the_nested_order_are_fair(tmp_path):
    from tunewright.data.prepare import prepare

    recipe = make_recipe(make_values(tmp_path))
    prepared = prepare(recipe.data, recipe.task, silence())
    order = nested_order(prepared.splits.train, 17)
    assert sorted(e.id for e in order) == sorted(e.id for e in prepared.splits.train)
    for size in (40, 80, 160):
        counts = {}
        for example in order[:size]:
            counts[example.output] = counts.get(example.output, 0) + 1
        assert max(counts.values()) - min(counts.values()) <= 0.15 * size
    backwards = nested_order(tuple(reversed(prepared.splits.train)), 17)
    assert [e.id for e in backwards] == [e.id for e in order]
    assert len(with_rows(prepared, order[:10]).splits.train) == 10
