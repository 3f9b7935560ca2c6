"""Metrics of one operating point, against counting by hand."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_curve

from tunewright.evaluate.compare import compare
from tunewright.evaluate.score import score
from tunewright.metrics.table import measure
from tunewright.records import Prediction

LABELS = ("ham", "spam")


def make_rows(scores, positive, *, system="a"):
    return [
        Prediction(
            id=f"{n:016x}", split="test", system=system, input="x",
            reference="spam" if yes else "ham", prediction="spam" if p > 0.5 else "ham",
            confidence=float(max(p, 1 - p)), probabilities=(float(1 - p), float(p)),
        )
        for n, (p, yes) in enumerate(zip(scores, positive, strict=True))
    ]  # fmt: skip


def drawn(seed, *, n=600, rate=0.1, gap=1.5):
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < rate
    scores = 1 / (1 + np.exp(-(rng.standard_normal(n) + gap * positive - 1)))
    return np.round(scores, 2), positive  # rounded: ties


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("at", [0.01, 0.05, 0.2])
def test_recall_at_a_false_alarm_rate_is_the_roc_curve_s(seed, at):
    scores, positive = drawn(seed)
    false, found, _ = roc_curve(positive, scores, drop_intermediate=False)
    name = f"recall_at_fpr[{at}]"
    got = measure(make_rows(scores, positive), [name], LABELS)[name]
    assert got == pytest.approx(found[false <= at].max())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rate", [0.01, 0.001, 0.1])
def test_average_precision_at_another_rate_is_sklearns_with_weights(seed, rate):
    scores, positive = drawn(seed)
    odd = positive.sum() * (1 - rate) / rate / (~positive).sum()
    wanted = average_precision_score(positive, scores, sample_weight=np.where(positive, 1.0, odd))
    name = f"pr_auc_at_rate[{rate}]"
    assert measure(make_rows(scores, positive), [name], LABELS)[name] == pytest.approx(wanted)


def test_the_rate_of_the_rows_themselves_changes_nothing():
    scores, positive = drawn(3)
    name = f"pr_auc_at_rate[{positive.mean()}]"
    found = measure(make_rows(scores, positive), [name, "pr_auc"], LABELS)
    assert found[name] == pytest.approx(found["pr_auc"])


def test_coverage_counts_the_surest_rows():
    right = [True, True, True, False, True, False]
    rows = make_rows([0.99, 0.95, 0.9, 0.8, 0.7, 0.6], right)  # all answered spam
    for at, share in ((0.95, 3 / 6), (0.75, 5 / 6), (0.6, 1.0)):
        name = f"coverage_at_precision[{at}]"
        assert measure(rows, [name], LABELS)[name] == pytest.approx(share)
    assert measure(make_rows([0.9], [False]), ["coverage_at_precision[0.9]"], LABELS) == {
        "coverage_at_precision[0.9]": 0.0
    }


@pytest.mark.parametrize(
    "name", ["recall_at_fpr[0.05]", "pr_auc_at_rate[0.01]", "coverage_at_precision[0.95]"]
)
def test_intervals_and_comparisons_know_them(name):
    scores, positive = drawn(1, n=1500, gap=4.0)
    weak, _ = drawn(1, n=1500, gap=0.3)
    good, bad = make_rows(scores, positive), make_rows(weak, positive, system="b")
    result = score(good, [name], labels=LABELS, seed=1).metrics[name]
    assert result.ci95[0] < result.value <= result.ci95[1]
    assert compare(good, bad, name, labels=LABELS, seed=1).verdict == "better"
    assert compare(good, good, name, labels=LABELS, seed=1).verdict == "cannot tell"
