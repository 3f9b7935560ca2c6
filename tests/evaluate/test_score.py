from __future__ import annotations

import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from tests.metrics.test_labels import LABELS, make_rows, make_scored
from tests.metrics.test_text import make_row

from tunewright.errors import DataError
from tunewright.evaluate.score import score
from tunewright.metrics.table import METRICS, measure
from tunewright.records import Prediction

CLASSIFY = [name for name, metric in METRICS.items() if "classify" in metric.tasks]


def test_every_figure_has_an_interval_around_it() -> None:
    rows = make_scored(400, LABELS)
    result = score(rows, CLASSIFY, labels=LABELS, seed=1)
    assert result.metrics.keys() == set(CLASSIFY)
    plain = measure(rows, CLASSIFY, LABELS)
    for name, item in result.metrics.items():
        low, high = item.ci95
        assert item.value == pytest.approx(plain[name])
        assert low <= item.value <= high, name
        assert low < high, name
        least, most = METRICS[name].range
        assert least is None or low >= least - 1e-9
        assert most is None or high <= most + 1e-9


def test_the_same_seed_gives_the_same_interval() -> None:
    rows = make_scored(200, LABELS)
    first, again, other = (score(rows, ["f1_macro"], labels=LABELS, seed=s) for s in (1, 1, 2))
    assert first == again
    assert first.metrics["f1_macro"].ci95 != other.metrics["f1_macro"].ci95


@pytest.mark.parametrize("name", ["accuracy", "f1_macro", "f1_positive", "mcc", "roc_auc", "f1[a]"])
def test_all_right_is_not_certainty(name: str) -> None:
    rows = [
        replace(row, prediction=row.reference, probabilities=(p, 1 - p), confidence=max(p, 1 - p))
        for row in make_scored(100, ("a", "b"))
        for p in [0.9 if row.reference == "a" else 0.1]
    ]
    item = score(rows, [name], labels=("a", "b"), seed=1).metrics[name]
    assert item.value == item.ci95[1] == 1.0
    assert 0.8 < item.ci95[0] < 1.0


def test_all_wrong_is_not_certainty_either() -> None:
    rows = make_rows(["a"] * 50, ["b"] * 50)
    item = score(rows, ["accuracy"], labels=("a", "b"), seed=1).metrics["accuracy"]
    assert item.ci95[0] == 0.0
    assert item.ci95[1] > 0.02


def test_what_the_predictions_lack_is_left_out() -> None:
    rows = make_rows(["a", "b"] * 20, ["a", "a"] * 20)
    result = score(rows, ["accuracy", "log_loss", "ece", "roc_auc"], labels=("a", "b"), seed=1)
    assert result.metrics.keys() == {"accuracy"}


def test_groups_widen_every_interval() -> None:
    rng = np.random.default_rng(0)
    hard = np.repeat(rng.random(60), 10)
    right = rng.random(600) < np.where(hard < 0.3, 0.2, 0.95)
    rows = [
        Prediction(str(i), "test", "x", "", "ab"[i % 2], "ab"[(i + (not ok)) % 2])
        for i, ok in enumerate(right)
    ]
    grouped = [replace(row, group=f"g{i // 10}") for i, row in enumerate(rows)]
    for name in ("accuracy", "f1_macro"):
        widths = []
        for side in (rows, grouped):
            low, high = score(side, [name], labels=("a", "b"), seed=1).metrics[name].ci95
            widths.append(high - low)
        assert widths[1] > 1.7 * widths[0], name


def test_written_answers_are_scored_with_intervals() -> None:
    rows = [
        make_row(i, "a b c d e" if i % 3 else "a b x y z", ["a b c d e f", "a b c"])
        for i in range(90)
    ]
    result = score(rows, ["bleu", "chrf", "rougeL", "exact_match"], labels=(), seed=1)
    for name, item in result.metrics.items():
        assert item.ci95[0] <= item.value <= item.ci95[1], name


def test_no_rows_is_said_in_one_line() -> None:
    with pytest.raises(DataError, match="no rows to score"):
        score([], ["accuracy"], labels=LABELS, seed=1)


def test_a_full_score_takes_a_moment() -> None:
    labels = tuple(f"intent {i}" for i in range(77))
    rows = make_scored(3080, labels)
    names = [
        "accuracy",
        "f1_macro",
        "f1_weighted",
        "balanced_accuracy",
        "mcc",
        "precision_macro",
        "recall_macro",
        "log_loss",
        "ece",
        "f1_micro",
    ]
    started = time.process_time()
    score(rows, names, labels=labels, seed=1)
    assert time.process_time() - started < 5.0  # about 1 s on a quiet core


def test_many_rows_need_little_memory() -> None:
    some = make_scored(500, ("a", "b"))
    rows = [replace(some[i % 500], id=str(i)) for i in range(50_000)]
    tracemalloc.start()
    score(rows, ["accuracy", "f1_macro", "roc_auc"], labels=("a", "b"), seed=1, num_resamples=30)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000_000
