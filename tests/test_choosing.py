"""A whole choice among made bases, good and bad; the bad ones keep their rows."""

import json
import shutil

import pytest

from model_zoo import make_tiny
from planted_rows import make_values
from tunewright.choosing import (
    NullCandidate,
    _against_nulls,
    candidates_in,
    choose_base,
    document_of,
    winner_of,
)
from tunewright.cli.main import run
from tunewright.config import make_recipe, read_recipe
from tunewright.decide.choose import Contender, choose
from tunewright.decide.curves import Goal, Point
from tunewright.errors import ModelError, RecipeError
from tunewright.journal import silence
from tunewright.pipeline import train
from tunewright.records import Score

GOAL = Goal("accuracy", 1.0, True)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("choose")


@pytest.fixture(scope="module")
def bad(place):
    """Folders that cannot be used: code of their own, truncated weights, nothing at all."""
    coded = make_tiny("bert", place / "coded")
    config = json.loads((coded / "config.json").read_text())
    (coded / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "x.Y"}}))
    broken = make_tiny("bert", place / "broken")
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    return {"coded": str(coded), "broken": str(broken), "missing": str(place / "missing")}


@pytest.fixture(scope="module")
def made(place, bad):
    values = make_values(place)
    stranger = str(make_tiny("bert", place / "stranger"))
    names = [values["base_model"], stranger, *bad.values()]
    recipe = make_recipe({**values, "base_model": names})
    report = choose_base(recipe, place / "made", silence(), live=False, budget_share=0.3)
    return report, values, stranger


def test_the_base_that_knows_the_words_wins(made):
    report, values, stranger = made
    rows = {row.name: row for row in report.candidates}
    assert winner_of(report) == values["base_model"]
    assert rows[stranger].fate in ("runner-up", "overtaken")
    assert report.choice is not None and report.choice.expected_regret < 0.2
    assert rows[values["base_model"]].probe is not None


def test_bad_candidates_keep_their_rows(made, bad):
    rows = {row.name: row for row in made[0].candidates}
    for name in bad.values():
        assert rows[name].fate == "cannot be used", rows[name]
        assert rows[name].reason and not rows[name].points
    assert "code" in rows[bad["coded"]].reason


def test_null_candidates_stand_beside_them(made):
    nulls = {null.name: null for null in made[0].nulls}
    assert 0.2 < nulls["tfidf_linear"].score.value < made[0].choice.value[winner_of(made[0])]
    assert nulls["incumbent"].score is None and "--incumbent" in nulls["incumbent"].reason
    assert not any("needs no tuning" in text for text in made[0].because)


def test_a_null_candidate_that_is_no_worse_is_told():
    choice = choose([Contender("a", 1, (Point(100, 0.8, 0.01),))], GOAL, 100, margin=0.0)
    strong = NullCandidate("tfidf_linear", Score("accuracy", 0.82, (0.8, 0.84), 100))
    weak = NullCandidate("incumbent", Score("accuracy", 0.7, (0.6, 0.8), 100))
    (told,) = _against_nulls(GOAL, choice, [strong, weak])
    assert "tfidf_linear needs no tuning and has 0.82" in told


def test_the_recipe_it_leaves_can_be_trained(made, place):
    recipe = read_recipe(place / "made" / "recipe.yaml")
    assert recipe.base_model == made[1]["base_model"] and recipe.candidates == ()
    document = json.loads((place / "made" / "choose.json").read_text())
    assert document["winner"] == recipe.base_model
    assert len(document["candidates"]) == 5 == len(document_of(made[0])["candidates"])


def test_a_list_is_chosen_from_not_trained(made, tmp_path):
    recipe = make_recipe({**made[1], "base_model": ["a", "b"]})
    with pytest.raises(RecipeError, match="tunewright choose"):
        train(recipe, tmp_path / "run", silence())


def test_a_base_that_kills_the_process_is_left_out_in_the_end(place, tmp_path):
    values = make_values(tmp_path)
    base = str(values["base_model"])
    tries = {f"{base}: facts": 2}
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "trying.json").write_text(json.dumps(tries))
    report = choose_base(make_recipe(values), tmp_path / "c", silence(), live=False)
    assert report.candidates[0].fate == "crashed" and "died 2 times" in report.candidates[0].reason
    assert winner_of(report) is None


def test_a_folder_of_models_is_a_list(place, tmp_path):
    assert len(candidates_in("catalog")) > 20
    shutil.copytree(place / "base", tmp_path / "models" / "one")
    assert candidates_in(str(tmp_path / "models")) == (str(tmp_path / "models" / "one"),)
    with pytest.raises(ModelError, match="no model folder"):
        candidates_in(str(tmp_path / "models" / "one"))


def test_nobody_left_is_exit_1(bad, place, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(make_values(tmp_path)))
    status = run([
        "choose", str(recipe), "--base", bad["missing"], "--base", bad["broken"], "--offline",
        "--dir", str(tmp_path / "c"), "--json",
    ])  # fmt: skip
    document = json.loads(capsys.readouterr().out)
    assert status == 1 and document["winner"] is None
    assert [row["fate"] for row in document["candidates"]] == ["cannot be used"] * 2
