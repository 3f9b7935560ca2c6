"""Runs that learn from compared answers: report, resume, single answers, and mistakes."""

import json

import pytest
from tests.model_zoo import make_tiny

from tunewright.config import make_recipe, parse_recipe
from tunewright.errors import DataError, RecipeError
from tunewright.journal import Journal
from tunewright.pipeline import train


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    make_tiny("llama", folder / "llama", scale=1.0)
    pairs = [
        {"prompt": f"say {n}", "chosen": "no no no", "rejected": "yes please"} for n in range(48)
    ]
    write(folder / "pairs.jsonl", pairs)
    singles = [
        {
            "prompt": f"tell {n}",
            "completion": ("no no no", "yes please")[n % 2],
            "label": n % 2 == 0,
        }
        for n in range(40)
    ]
    write(folder / "singles.jsonl", singles)
    return folder


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))


def recipe_of(place, objective, data="pairs.jsonl", test=0.25, validation=0.25, **training):
    return make_recipe(
        {
            "objective": objective, "base_model": str(place / "llama"), "task": "generate",
            "data": {"train": str(place / data), "validation": validation, "test": test},
            "adapter": {"method": "lora", "r": 4},
            "training": {"num_threads": 1, "precision": "fp32", "num_epochs": 6,
                         "learning_rate": 0.01, "batch_size": 8, "eval_steps": 6, **training},
        }
    )  # fmt: skip


@pytest.mark.parametrize("objective", ["dpo", "orpo"])
def test_a_run_learns_which_answer_is_better_and_says_so(place, tmp_path, objective):
    report = train(recipe_of(place, objective), tmp_path / "run", Journal())
    scores = {r.system: r.metrics["accuracy"].value for r in report.results}
    assert scores.keys() == {"tuned", "base", "shorter", "longer"}
    assert scores["tuned"] == 1.0 and report.primary_metric == "accuracy"
    line = json.loads((tmp_path / "run" / "predictions.jsonl").read_text().splitlines()[0])
    assert line["reference"] == "chosen" and line["prediction"] in ("chosen", "rejected")


def test_single_answers_teach_and_pairs_judge(place, tmp_path):
    pairs = str(place / "pairs.jsonl")
    recipe = recipe_of(place, "kto", "singles.jsonl", test=pairs, validation=pairs)
    report = train(recipe, tmp_path / "run", Journal())
    scores = {r.system: r.metrics["accuracy"].value for r in report.results}
    assert scores["tuned"] == 1.0


def test_rows_without_pairs_are_refused_with_a_remedy(place, tmp_path):
    with pytest.raises(DataError, match="no row has chosen and rejected; .* objective: kto"):
        train(recipe_of(place, "dpo", "singles.jsonl"), tmp_path / "a", Journal())
    with pytest.raises(DataError, match=r"data\.validation: no row has a better and a worse"):
        train(recipe_of(place, "kto", "singles.jsonl"), tmp_path / "b", Journal())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("objective: dpo\npreference: {gamma: 1}", "r:2: preference.gamma is for objective simpo"),
        ("preference: {beta: 1}", "preference.beta is for objective dpo, ipo"),
        ("objective: dpo\ntask: classify", "is about written answers; task is classify"),
        ("objective: dpoo", "objective is 'dpoo'"),
        ("objective: kto\ntraining: {label_smoothing: 0.1}", "means nothing for objective kto"),
        ("task: regress\ntraining: {label_smoothing: 0.1}", "means nothing for task regress"),
    ],
)
def test_recipes_that_make_no_sense_are_told(text, message):
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "r")
    assert message in str(caught.value)
