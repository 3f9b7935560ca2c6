from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from tests.metrics.test_labels import make_rows

from tunewright.evaluate.compare import compare
from tunewright.evaluate.score import score
from tunewright.evaluate.verdict import judge
from tunewright.records import Amount, Comparison, Cost, Prediction, Result, Score

LABELS = tuple(f"intent {i}" for i in range(10))


def make_system(system: str, accuracy: float, n: int = 2000, seed: int = 0) -> list[Prediction]:
    """Easy rows are easy for every system: errors are shared, as they are in life."""
    rng = np.random.default_rng(0)
    true, ease, noise = rng.integers(0, 10, n), rng.random(n), np.random.default_rng(seed + 1)
    right = ease + 0.05 * noise.normal(size=n) < accuracy
    answers = np.where(right, true, (true + 1) % 10)
    rows = make_rows([LABELS[t] for t in true], [LABELS[a] for a in answers])
    return [replace(row, system=system) for row in rows]


def judge_systems(
    systems: dict[str, float], n: int = 2000, **options: object
) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    rows = {name: make_system(name, share, n, i) for i, (name, share) in enumerate(systems.items())}
    results = [score(side, ["accuracy"], labels=LABELS, seed=1) for side in rows.values()]
    found = [
        compare(rows["tuned"], side, "accuracy", labels=LABELS, seed=1)
        for name, side in rows.items()
        if name != "tuned"
    ]
    return judge(results, found, primary_metric="accuracy", num_train=9000, **options)  # type: ignore[arg-type]


RIVALS = {"base": 0.40, "tfidf_linear": 0.90, "linear_probe": 0.88, "majority": 0.10}


def test_ship_when_better_than_everything() -> None:
    verdict, because, _ = judge_systems({"tuned": 0.94, **RIVALS})
    assert verdict == "ship"
    assert because[0].startswith("Ship: tuned is better than TF-IDF + linear model")
    text = " ".join(because)
    assert "on 2,000 rows, tuned on 9,000" in text
    assert "points better" in text
    assert "p < 0.001" in text


def test_do_not_tune_names_the_cheap_rival_that_wins() -> None:
    verdict, because, steps = judge_systems({"tuned": 0.85, **RIVALS})
    assert verdict == "do not tune"
    assert "TF-IDF + linear model is better" in because[0]
    assert any("Use TF-IDF + linear model" in step for step in steps)


def test_do_not_tune_when_worse_than_the_base() -> None:
    verdict, because, steps = judge_systems({"tuned": 0.80, "base": 0.88, "majority": 0.1})
    assert verdict == "do not tune"
    assert "untuned base is better" in because[0]
    assert "Keep the base model as it is." in steps


def test_do_not_tune_without_signal() -> None:
    verdict, because, _ = judge_systems({"tuned": 0.104, "base": 0.02, "majority": 0.10})
    assert verdict == "do not tune"
    assert "no signal" in because[0]


def test_do_not_tune_when_the_cheap_way_does_as_well() -> None:
    verdict, because, _ = judge_systems({"tuned": 0.9005, **RIVALS}, n=3000)
    assert verdict == "do not tune"
    assert "TF-IDF + linear model" in because[0]


def test_more_data_says_how_much() -> None:
    verdict, because, steps = judge_systems({"tuned": 0.905, **RIVALS, "linear_probe": 0.8}, n=200)
    assert verdict == "more data"
    assert "200 test rows cannot confirm it" in because[0]
    assert any(step.startswith("Test on about") for step in steps)


def test_from_scratch_is_shown_and_does_not_vote() -> None:
    verdict, because, _ = judge_systems({"tuned": 0.94, "from_scratch": 0.98, **RIVALS})
    assert verdict == "ship"
    assert any("shown beside, does not vote" in line for line in because)


def test_sides_may_stand_either_way_round() -> None:
    rows = {name: make_system(name, share) for name, share in (("tuned", 0.94), ("base", 0.4))}
    results = [score(side, ["accuracy"], labels=LABELS, seed=1) for side in rows.values()]
    found = [compare(rows["base"], rows["tuned"], "accuracy", labels=LABELS, seed=1)]
    assert judge(results, found, primary_metric="accuracy", num_train=10)[0] == "ship"


@pytest.mark.parametrize("seed", range(20))
def test_answers_without_relation_to_the_truth_never_ship(seed: int) -> None:
    """As after training on shuffled labels: every system but the majority guesses."""
    rng = np.random.default_rng(seed)
    true = [LABELS[i] for i in rng.integers(0, 10, 800)]
    names = ["tuned", "base", "tfidf_linear", "linear_probe", "nearest_neighbour"]
    answers = {name: [LABELS[i] for i in rng.integers(0, 10, 800)] for name in names}
    answers["majority"] = [LABELS[0]] * 800
    rows = {
        name: [replace(row, system=name) for row in make_rows(list(true), list(side))]
        for name, side in answers.items()
    }
    results = [score(side, ["accuracy"], labels=LABELS, seed=1) for side in rows.values()]
    found = [
        compare(rows["tuned"], side, "accuracy", labels=LABELS, seed=1)
        for name, side in rows.items()
        if name != "tuned"
    ]
    assert judge(results, found, primary_metric="accuracy", num_train=800)[0] != "ship"


def make_case(
    metric: str, tuned: float, base: float, **values: object
) -> tuple[list[Result], Comparison]:
    results = [
        Result(name, "test", 500, {metric: Score(metric, value, (value - 0.1, value + 0.1), 500)})
        for name, value in (("tuned", tuned), ("base", base))
    ]
    defaults = {
        "ci95": (-0.3, -0.1),
        "p_value": 0.0005,
        "minimum_detectable": 0.1,
        "verdict": "better",
    }
    fields = {**defaults, **values}
    found = Comparison("tuned", "base", metric, tuned - base, test="x", n=500, **fields)  # type: ignore[arg-type]
    return results, found


def test_lower_is_better_is_told_the_right_way_round() -> None:
    results, found = make_case("mae", 1.0, 1.2)
    verdict, because, _ = judge(results, [found], primary_metric="mae", num_train=100)
    assert verdict == "ship"
    assert any("0.200 better (0.100 to 0.300" in line for line in because), because


def test_a_model_without_usable_answers_is_not_shipped() -> None:
    results, found = make_case("mae", math.nan, 1.2, verdict="cannot tell", p_value=1.0)
    assert judge(results, [found], primary_metric="mae", num_train=100)[0] == "do not tune"


def test_nothing_compared_is_nothing_shown() -> None:
    results, _ = make_case("mae", 1.0, 1.2)
    assert judge(results, [], primary_metric="mae", num_train=100)[0] == "more data"


def test_next_steps_are_concrete() -> None:
    details = {
        "worst_classes": [
            {"label": "refund", "n": 9, "f1": 0.4, "confused_with": "cancel", "train_rows": 12},
            {"label": "cancel", "n": 20, "f1": 0.6, "confused_with": "refund", "train_rows": 90},
        ],
        "probable_label_errors": [{"id": "1"}, {"id": "2"}],
        "calibration": {"ece": 0.12, "bins": []},
        "evaluations": [{"best": True}, {"best": True}, {"best": True}],
    }
    cost = Cost(seconds=Amount(measured=432.0), usd=Amount(measured=0.05))
    _, because, steps = judge_systems({"tuned": 0.94, **RIVALS}, details=details, cost=cost)
    text = " ".join(steps)
    assert "refund (12)" in text
    assert "refund and cancel apart" in text
    assert "Check 2 labels" in text
    assert "off by 12 points" in text
    assert "Raise training.num_epochs" in text
    assert because[-1] == "The run took 7 min 12 s, $0.0500."


def test_nothing_ships_while_a_rival_that_votes_has_not_answered() -> None:
    systems = {"tuned": 0.93, "base": 0.6, "majority": 0.1}
    assert judge_systems(systems)[0] == "ship"
    verdict, because, steps = judge_systems(systems, failed=["tfidf_linear"])
    assert verdict == "more data" and "failed" in because[0] and "Mend" in steps[0]
    assert judge_systems(systems, failed=["from_scratch"])[0] == "ship"


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_a_handful_of_test_rows_asks_for_more_of_them(n: int) -> None:
    rows = {
        name: [replace(row, system=name) for row in make_rows(["a", "b"] * n, [answer] * 2 * n)][:n]
        for name, answer in (("tuned", "a"), ("base", "a"), ("majority", "b"))
    }
    found = [
        compare(rows["tuned"], rows[name], "accuracy", labels=("a", "b"), seed=1)
        for name in ("base", "majority")
    ]
    results = [score(side, ["accuracy"], labels=("a", "b"), seed=1) for side in rows.values()]
    verdict, because, steps = judge(results, found, primary_metric="accuracy", num_train=40)
    assert verdict == "more data"
    assert f"{n} test row" in because[0]
    assert any("Test on 100 rows or more" in step for step in steps)
    assert not any("\u2014" in line for line in because)


def test_ten_rows_lost_to_none_are_still_a_loss() -> None:
    rows = {
        name: [replace(row, system=name) for row in make_rows(["a"] * 10, [answer] * 10)]
        for name, answer in (("tuned", "b"), ("base", "a"))
    }
    found = compare(rows["tuned"], rows["base"], "accuracy", labels=("a", "b"), seed=1)
    results = [score(side, ["accuracy"], labels=("a", "b"), seed=1) for side in rows.values()]
    assert judge(results, [found], primary_metric="accuracy", num_train=40)[0] == "do not tune"
