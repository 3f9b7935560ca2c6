"""A judge in both orders, its agreement with people, and as the metric of a run."""

import json
import math

import numpy as np
import pytest
from tests.model_zoo import make_tiny

from tunewright.config import make_recipe
from tunewright.errors import RecipeError
from tunewright.evaluate.judge import Judge, agreement, read_letter, read_number
from tunewright.journal import silence
from tunewright.pipeline import train


def wants_the_longer(prompts):
    said = []
    for prompt in prompts:
        _, rest = prompt.split("Answer A:\n")
        a, rest = rest.split("\n\nAnswer B:\n")
        b = rest.split("\n\nBetter:")[0]
        said.append("A" if len(a) > len(b) else "B" if len(b) > len(a) else "T")
    return said


def test_a_pair_counts_only_where_both_orders_agree():
    judge = Judge(wants_the_longer)
    found = judge.compare(["p"] * 3, ["longer", "x", "same"], ["short", "longer", "ok??"])
    assert found == ["first", "second", "tie"]
    always_first = Judge(lambda prompts: ["A is better"] * len(prompts))
    assert always_first.compare(["p"] * 2, ["a", "b"], ["c", "d"]) == ["tie", "tie"]
    assert Judge(lambda prompts: ["no idea"] * len(prompts)).compare(["p"], ["a"], ["b"]) == ["tie"]


def test_what_a_judge_writes_is_read():
    assert [read_letter(t) for t in ("B", " a. ", "it is a Tie", "Banana", "")] == [
        "B", "A", "T", None, None,
    ]  # fmt: skip
    assert read_letter("the answer is B") == "B"
    assert read_letter("A clearer text: the winner is **B**") == "B"
    assert read_letter("A is clearer") == "A"
    assert [read_number(t) for t in ("7", "8.5 of 10", "none", "11")] == [0.7, 0.85, 0.0, 1.0]
    graded = Judge(lambda prompts: ["9"] * len(prompts)).grade(["p"], ["a"], "Good?")
    assert graded == [0.9]


def test_agreement_is_cohens():
    sklearn = pytest.importorskip("sklearn.metrics")
    dice = np.random.default_rng(1)
    words = np.array(["first", "second", "tie"])
    people = words[dice.integers(0, 3, 200)]
    judged = np.where(dice.random(200) < 0.5, people, words[dice.integers(0, 3, 200)])
    found = agreement(judged.tolist(), people.tolist())
    assert math.isclose(found.kappa, sklearn.cohen_kappa_score(judged, people), abs_tol=1e-12)
    assert found.agree_ci95[0] < found.agree < found.agree_ci95[1]
    assert found.decided == int(((people != "tie") & (judged != "tie")).sum())
    assert "kappa" in found.line


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def test_a_reward_model_judges_a_run_and_is_measured_against_people(tmp_path):
    base = str(make_tiny("bert", tmp_path / "bert", scale=1.0))
    people = write(tmp_path / "people.jsonl", [
        {"prompt": f"where is card {n}", "chosen": "the card is here yes", "rejected": "no no no"}
        for n in range(40)
    ])  # fmt: skip
    shared = {"num_threads": 1, "precision": "fp32", "batch_size": 8}
    train(make_recipe({
        "objective": "reward", "task": "generate", "base_model": base,
        "data": {"train": people, "validation": 0, "test": 0.1},
        "training": {**shared, "max_steps": 15, "learning_rate": 3e-3},
    }), tmp_path / "judge", silence())  # fmt: skip
    rows = write(tmp_path / "rows.jsonl", [
        {"prompt": f"where is card {n}", "completion": "no no no"} for n in range(30)
    ])  # fmt: skip
    values = {
        "task": "generate", "base_model": str(make_tiny("llama", tmp_path / "llama")),
        "data": {"train": rows, "validation": 0.2, "test": 0.3},
        "training": {**shared, "max_steps": 2, "canaries": 2},
        "evaluation": {"baselines": ["base", "nearest_neighbour"], "max_new_tokens": 4,
                       "metrics": ["judge", "chrf"],
                       "judge": {"model": str(tmp_path / "judge"), "people": people}},
    }  # fmt: skip
    report = train(make_recipe(values), tmp_path / "run", silence())
    systems = {r.system: r.metrics["judge"].value for r in report.results}
    assert systems["nearest_neighbour"] == 0.5  # its answers are the references themselves
    assert report.details["judge"]["agree"] > 0.9
    assert any("the judge agrees with people" in line for line in report.because)
    assert any("planted canaries" in line for line in report.because)
    assert len(report.details["canaries"]["bits"]) == 2
    del values["evaluation"]["judge"]
    with pytest.raises(RecipeError, match=r"evaluation.judge.model"):
        train(make_recipe(values), tmp_path / "other", silence())
