from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as theirs
from sklearn import metrics as reference

from tunewright.metrics.regression import spearman
from tunewright.metrics.table import measure
from tunewright.records import Prediction

NAMES = ["mae", "rmse", "r2", "spearman", "pearson"]


def make_rows(true: np.ndarray, answers: np.ndarray) -> list[Prediction]:
    return [
        Prediction(str(i), "test", "tuned", "", float(t), float(a))
        for i, (t, a) in enumerate(zip(true, answers, strict=True))
    ]


@pytest.mark.parametrize("offset", [0.0, 1e7])
def test_agrees_with_sklearn_and_scipy(offset: float) -> None:
    rng = np.random.default_rng(0)
    true = np.round(rng.normal(size=200), 1) + offset
    answers = true + np.round(rng.normal(size=200), 1)
    ours = measure(make_rows(true, answers), NAMES, ())
    assert ours["mae"] == pytest.approx(reference.mean_absolute_error(true, answers))
    assert ours["rmse"] == pytest.approx(reference.root_mean_squared_error(true, answers))
    assert ours["r2"] == pytest.approx(reference.r2_score(true, answers))
    assert ours["spearman"] == pytest.approx(theirs.spearmanr(true, answers).statistic)
    assert ours["pearson"] == pytest.approx(theirs.pearsonr(true, answers).statistic)


def test_weighted_ranks_are_ranks_of_repeated_rows() -> None:
    rng = np.random.default_rng(1)
    true, answers = rng.integers(0, 6, 40), rng.integers(0, 6, 40)
    weights = rng.integers(0, 3, size=(40, 4)).astype(float)
    ours = spearman(make_rows(true, answers), ())(weights)
    for column in range(4):
        times = weights[:, column].astype(int)
        expected = theirs.spearmanr(np.repeat(true, times), np.repeat(answers, times)).statistic
        assert ours[column] == pytest.approx(expected)


def test_constant_answers_have_no_correlation_and_no_noise() -> None:
    true = np.arange(20) + 0.1
    ours = measure(make_rows(true, np.full(20, 0.1)), NAMES, ())
    assert np.isnan(ours["pearson"])
    assert np.isnan(ours["spearman"])
    assert ours["r2"] < 0


def test_an_answer_that_is_no_number_spoils_the_figure_visibly() -> None:
    rows = [*make_rows(np.arange(5), np.arange(5)), Prediction("x", "test", "tuned", "", 1.0, None)]
    assert np.isnan(measure(rows, ["mae"], ())["mae"])
