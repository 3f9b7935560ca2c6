from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from bench.null_simulations import keep_rows, make_class_pool, make_pool, make_text_pool, simulate
from bench.power import same_model_words, share_found
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.metrics.test_labels import LABELS, make_rows, make_scored
from tests.metrics.test_regression import make_rows as make_numbers

from tunewright.errors import DataError
from tunewright.evaluate.compare import compare, discordance
from tunewright.metrics.table import METRICS
from tunewright.records import Prediction


def named(rows: list[Prediction], system: str) -> list[Prediction]:
    return [replace(row, system=system) for row in rows]


def make_right_wrong(n: int, only_a: int, only_b: int) -> tuple[list[Prediction], list[Prediction]]:
    true = ["yes"] * n
    a = ["yes" if i < only_a or i >= only_a + only_b else "no" for i in range(n)]
    b = ["yes" if i >= only_a else "no" for i in range(n)]
    return named(make_rows(true, a), "a"), named(make_rows(true, b), "b")


def test_accuracy_is_compared_by_exact_mcnemar() -> None:
    a, b = make_right_wrong(1000, 60, 20)
    found = compare(a, b, "accuracy", labels=("yes", "no"), seed=1)
    assert found.test == "exact McNemar (60 : 20)"
    assert found.delta == pytest.approx(0.04)
    assert found.p_value < 1e-4
    assert 0 < found.ci95[0] < 0.04 < found.ci95[1]
    assert found.verdict == "better"
    assert discordance(a, b, "accuracy") == (60, 20)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 300))
def test_words_agree_with_test_and_interval_and_turn_with_the_sides(
    x: int, y: int, rest: int
) -> None:
    a, b = make_right_wrong(x + y + rest + 1, x, y)
    found = compare(a, b, "accuracy", labels=("yes", "no"), seed=1)
    back = compare(b, a, "accuracy", labels=("yes", "no"), seed=1)
    clear = found.ci95[0] > 0 or found.ci95[1] < 0
    assert (found.verdict != "cannot tell") == (found.p_value < 0.05 and clear)
    assert back.delta == -found.delta
    assert back.p_value == found.p_value
    assert {found.verdict, back.verdict} in ({"better", "worse"}, {"cannot tell"})
    assert found.ci95[0] < found.ci95[1]
    assert 0 < found.minimum_detectable <= 1 or (
        found.n < 6 and math.isinf(found.minimum_detectable)
    )


def test_the_same_model_cannot_be_told_from_itself() -> None:
    assert set(same_model_words()) == {"cannot tell"}
    numbers = make_numbers(np.arange(50.0), np.arange(50.0) + np.tile([0.5, -0.2], 25))
    for name in ("mae", "rmse", "r2", "spearman", "pearson"):
        found = compare(numbers, numbers, name, labels=(), seed=1)
        assert (found.delta, found.p_value, found.verdict) == (0.0, 1.0, "cannot tell"), name


@pytest.mark.parametrize("name", ["f1_macro", "mcc", "log_loss", "roc_auc", "pr_auc", "ece"])
def test_a_clear_gain_is_seen_by_every_metric(name: str) -> None:
    rows = make_scored(500, ("a", "b"))
    rng = np.random.default_rng(5)
    worse = [
        replace(
            row,
            system="worse",
            prediction=str(rng.choice(["a", "b"])),
            probabilities=(float(p), float(1 - p)),
            confidence=float(max(p, 1 - p)),
        )
        for row, p in zip(rows, rng.random(500), strict=True)
    ]
    found = compare(rows, worse, name, labels=("a", "b"), seed=1)
    assert found.verdict == "better"
    assert compare(worse, rows, name, labels=("a", "b"), seed=1).verdict == "worse"
    assert (found.delta > 0) == METRICS[name].higher_is_better
    assert found.minimum_detectable < abs(found.delta)


def test_fewer_errors_are_better_in_numbers_too() -> None:
    true = np.arange(200.0)
    near = named(make_numbers(true, true + np.tile([1.0, -1.0], 100)), "near")
    far = named(make_numbers(true, true + np.tile([2.0, -2.5], 100)), "far")
    assert compare(near, far, "mae", labels=(), seed=1).verdict == "better"


def test_rows_are_matched_by_id_not_by_order() -> None:
    a, b = make_right_wrong(300, 30, 5)
    straight = compare(a, b, "accuracy", labels=("yes", "no"), seed=1)
    assert compare(a, b[::-1], "accuracy", labels=("yes", "no"), seed=1) == straight


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1:], "1 rows only in a"),
        (lambda rows: [*rows, rows[0]], "stands twice"),
        (lambda rows: [replace(rows[0], reference="no"), *rows[1:]], "two different references"),
        (lambda rows: [], "no rows"),
    ],
)
def test_rows_that_do_not_match_are_refused(change: object, message: str) -> None:
    a, b = make_right_wrong(30, 3, 2)
    with pytest.raises(DataError, match=message):
        compare(a, change(b), "accuracy", labels=("yes", "no"), seed=1)  # type: ignore[operator]


def test_a_metric_that_needs_more_than_there_is_says_so() -> None:
    a, b = make_right_wrong(30, 3, 2)
    with pytest.raises(DataError, match="a gives no probabilities and log_loss needs it"):
        compare(a, b, "log_loss", labels=("yes", "no"), seed=1)


def test_groups_are_compared_as_groups() -> None:
    a, b = make_right_wrong(300, 40, 10)
    rows = compare(a, b, "accuracy", labels=("yes", "no"), seed=1)
    grouped = [[replace(r, group=f"g{i // 10}") for i, r in enumerate(side)] for side in (a, b)]
    found = compare(*grouped, "accuracy", labels=("yes", "no"), seed=1)
    assert rows.verdict == "better"
    assert found.verdict == "cannot tell"  # 4 groups against 1: no evidence at all
    assert found.test.startswith("cluster permutation (30 groups")
    assert found.minimum_detectable > rows.minimum_detectable


def test_probabilities_may_be_compared_between_many_labels() -> None:
    rows = make_scored(200, LABELS)
    flat = [replace(row, system="flat", probabilities=(0.25,) * 4) for row in rows]
    assert compare(rows, flat, "log_loss", labels=LABELS, seed=1).verdict == "better"


@pytest.mark.parametrize("metric", ["accuracy", "f1_macro", "bleu"])
def test_false_alarms_and_coverage_over_300_null_simulations(metric: str) -> None:
    """The whole of it, 2,000 simulations of 11 cases, is bench/null_simulations.py."""
    if metric == "accuracy":
        pool = make_pool(accuracy=0.88, discordance=0.08)
    elif metric == "f1_macro":
        pool = make_class_pool(classes=10, null=True)
    else:
        pool = make_text_pool(rows=3000)
        metric = keep_rows(pool, "bleu")
    rates = simulate(pool, metric, 300, 200 if metric == "f1_macro" else 300)
    METRICS.pop("bleu_kept", None)
    assert rates.false <= 0.06 + 0.03  # two and a half standard errors of 300 simulations
    assert 0.90 <= rates.covered_value <= 0.995
    assert 0.90 <= rates.covered_delta <= 0.995


def test_groups_of_ten_are_covered_where_rows_alone_are_not() -> None:
    pool = make_pool(accuracy=0.88, discordance=0.08, group_size=10)
    rates = simulate(pool, "accuracy", 500, 200)
    assert rates.covered_value >= 0.90
    assert rates.covered_delta >= 0.90
    assert rates.false <= 0.09


def test_two_points_at_3080_rows_are_found() -> None:
    words = share_found(0.02, 100)
    assert words["better"] >= 0.90
    assert words["worse"] == 0
