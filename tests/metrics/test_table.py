from __future__ import annotations

import math

import pytest

from tunewright.errors import RecipeError
from tunewright.figures import NUMBERS, SHARES, is_share, metric_title
from tunewright.metrics.points import AT
from tunewright.metrics.table import (
    METRICS,
    PEERS_NAMES,
    check_metrics,
    default_metrics,
    find_metric,
    is_better,
    metrics_for,
)
from tunewright.records import Example


def test_every_metric_is_whole() -> None:
    for name, metric in METRICS.items():
        assert (metric.weighted is None) == (
            metric.rows is not None and metric.value is not None
        ), name
        assert metric.description
        assert metric.tasks


def test_every_metric_has_a_title_for_people() -> None:
    for name in METRICS:
        assert is_share(name) or name in NUMBERS, name
        assert metric_title(name)
    assert set(SHARES) - {"f1", "precision", "recall", *AT} <= set(METRICS)


def test_peers_names_lead_to_ours() -> None:
    assert set(PEERS_NAMES.values()) <= set(METRICS)
    with pytest.raises(RecipeError, match="did you mean f1_macro"):
        find_metric("f1")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("acuracy", "accuracy"), ("Rouge-L", "rougeL"), ("bits_per_bite", "bits_per_byte")],
)
def test_unknown_names_get_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(RecipeError, match=f"did you mean {hint}"):
        find_metric(name)


def test_metrics_of_one_label_may_have_any_label() -> None:
    assert find_metric("f1[a[b] c]").description == "F1 of a[b] c"
    check_metrics(["f1[spam]"], "classify", ("ham", "spam"))
    with pytest.raises(RecipeError, match="did you mean 'spam'"):
        check_metrics(["f1[spma]"], "classify", ("ham", "spam"))


def test_metrics_at_a_point_carry_their_number() -> None:
    check_metrics(["recall_at_fpr[0.01]", "pr_auc_at_rate[0.001]"], "classify", ("ham", "spam"))
    assert metric_title("recall_at_fpr[0.01]") == "recall at false-alarm rate 0.01"
    for name in ("recall_at_fpr[2]", "coverage_at_precision[x]", "pr_auc_at_rate[]"):
        with pytest.raises(RecipeError, match="between 0 and 1"):
            find_metric(name)
    with pytest.raises(RecipeError, match=r"recall_at_fpr\[0.01\]"):
        find_metric("recall_at_fpr")


def test_a_metric_of_another_task_is_refused() -> None:
    with pytest.raises(RecipeError, match="bleu is not for classify"):
        check_metrics(["accuracy", "bleu"], "classify")


@pytest.mark.parametrize("task", ["classify", "tag", "regress", "generate", "chat", "continue"])
def test_defaults_fit_their_task(task: str) -> None:
    check_metrics(default_metrics(task), task)
    check_metrics(default_metrics(task, binary=True, imbalanced=True), task)
    check_metrics(default_metrics(task, multi_label=True, has_references=True), task)


def make_examples(outputs: list[object], references: tuple[str, ...] = ()) -> list[Example]:
    return [
        Example(str(i), f"x:{i}", "text", out, references=references)
        for i, out in enumerate(outputs)
    ]


def test_the_metric_that_decides_follows_the_data() -> None:
    spam = make_examples(["ham"] * 87 + ["spam"] * 13)
    assert metrics_for("classify", spam, ("ham", "spam"))[0] == "f1[spam]"
    assert metrics_for("classify", make_examples(["a", "b"] * 9))[0] == "accuracy"
    assert metrics_for("classify", make_examples([("a",), ("a", "b")]))[0] == "f1_micro"
    assert metrics_for("generate", make_examples(["ls -la"] * 5))[0] == "exact_match"
    assert metrics_for("generate", make_examples(["a long and free answer"] * 5))[0] == "bleu"
    assert metrics_for("generate", make_examples(["short"] * 5, ("short", "brief")))[0] == "bleu"
    assert metrics_for("regress", make_examples([1.0, 2.0]))[0] == "mae"
    assert metrics_for("continue", make_examples([None]))[0] == "bits_per_byte"


def test_nan_is_never_better() -> None:
    assert not is_better("accuracy", math.nan, None)
    assert not is_better("accuracy", math.nan, 0.0)
    assert is_better("accuracy", 0.1, math.nan)
    assert is_better("mae", 0.1, 0.2)
    assert not is_better("mae", 0.2, 0.2)
