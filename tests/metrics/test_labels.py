from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from tunewright.errors import DataError, RecipeError
from tunewright.metrics.labels import classes_of, rarer_label, roc_auc
from tunewright.metrics.table import measure
from tunewright.records import Output, Prediction

LABELS = ("a", "b", "c", "d")


def make_rows(true: list[Output], answers: list[Output]) -> list[Prediction]:
    return [
        Prediction(str(i), "test", "tuned", "", t, a)
        for i, (t, a) in enumerate(zip(true, answers, strict=True))
    ]


def make_scored(n: int, labels: tuple[str, ...], seed: int = 0) -> list[Prediction]:
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        true = int(rng.choice(len(labels), p=np.linspace(1, 3, len(labels)) / (2 * len(labels))))
        scores = np.round(rng.dirichlet(1 + 2 * (np.arange(len(labels)) == true)), 2) + 0.01
        scores /= scores.sum()
        best = int(scores.argmax())
        rows.append(
            Prediction(
                str(i),
                "test",
                "tuned",
                "",
                labels[true],
                labels[best],
                float(scores[best]),
                probabilities=tuple(float(x) for x in scores),
            )
        )
    return rows


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1))
def test_counted_metrics_agree_with_sklearn(pairs: list[tuple[str, str]]) -> None:
    true, answers = [t for t, _ in pairs], [a for _, a in pairs]
    names = [
        f"{kind}_{average}"
        for kind in ("precision", "recall", "f1")
        for average in ("macro", "micro", "weighted")
    ]
    ours = measure(make_rows(true, answers), [*names, "accuracy", "mcc"], LABELS)
    for name in names:
        kind, average = name.split("_")
        score = getattr(reference, f"{kind}_score")
        theirs = score(true, answers, average=average, zero_division=0)
        assert ours[name] == pytest.approx(theirs, abs=1e-12), name
    assert ours["accuracy"] == pytest.approx(reference.accuracy_score(true, answers))
    assert ours["mcc"] == pytest.approx(reference.matthews_corrcoef(true, answers), abs=1e-9)


def test_balanced_accuracy_and_one_class_agree_with_sklearn() -> None:
    rows = make_scored(300, LABELS)
    true, answers = [r.reference for r in rows], [r.prediction for r in rows]
    ours = measure(rows, ["balanced_accuracy", "f1[b]", "recall[b]", "precision[b]"], LABELS)
    assert ours["balanced_accuracy"] == pytest.approx(
        reference.balanced_accuracy_score(true, answers)
    )
    for kind in ("f1", "recall", "precision"):
        per_class = getattr(reference, f"{kind}_score")(true, answers, average=None, labels=["b"])
        assert ours[f"{kind}[b]"] == pytest.approx(per_class[0])


@pytest.mark.parametrize("num_labels", [2, 4])
def test_rank_metrics_agree_with_sklearn_ties_included(num_labels: int) -> None:
    labels = LABELS[:num_labels]
    rows = make_scored(400, labels)
    scores = np.array([row.probabilities for row in rows])
    true = np.array([row.reference for row in rows])
    ours = measure(rows, ["roc_auc", "pr_auc"], labels)
    wanted = [labels.index(rarer_label(rows, labels))] if num_labels == 2 else range(num_labels)
    rank = [reference.roc_auc_score(true == labels[i], scores[:, i]) for i in wanted]
    precision = [reference.average_precision_score(true == labels[i], scores[:, i]) for i in wanted]
    assert ours["roc_auc"] == pytest.approx(np.mean(rank))
    assert ours["pr_auc"] == pytest.approx(np.mean(precision))


def test_weights_mean_repeated_rows() -> None:
    rows = make_scored(60, ("a", "b"))
    weights = np.random.default_rng(1).integers(0, 4, size=(60, 3)).astype(float)
    ours = roc_auc(rows, ("a", "b"))(weights)
    for column in range(3):
        repeated = [
            row for row, w in zip(rows, weights[:, column], strict=True) for _ in range(int(w))
        ]
        assert ours[column] == pytest.approx(measure(repeated, ["roc_auc"], ("a", "b"))["roc_auc"])


def test_multi_label_agrees_with_sklearn() -> None:
    rng = np.random.default_rng(3)
    true = rng.random((200, 4)) < 0.4
    answers = np.where(rng.random((200, 4)) < 0.2, ~true, true)
    rows = make_rows(*[[tuple(np.array(LABELS)[row]) for row in side] for side in (true, answers)])
    names = ["subset_accuracy", "f1_micro", "f1_macro", "hamming_loss"]
    ours = measure(rows, names, LABELS)
    assert ours["subset_accuracy"] == pytest.approx(reference.accuracy_score(true, answers))
    assert ours["f1_micro"] == pytest.approx(reference.f1_score(true, answers, average="micro"))
    assert ours["f1_macro"] == pytest.approx(reference.f1_score(true, answers, average="macro"))
    assert ours["hamming_loss"] == pytest.approx(reference.hamming_loss(true, answers))


def test_answers_outside_the_labels_are_wrong_and_no_class_of_their_own() -> None:
    rows = make_rows(["a", "a", "b", "b"], ["a", "nonsense", "b", None])
    ours = measure(rows, ["f1_macro", "f1_micro", "accuracy", "balanced_accuracy"], ("a", "b"))
    assert ours["f1_macro"] == pytest.approx(2 / 3)
    assert ours["f1_micro"] == ours["accuracy"] == 0.5
    assert ours["balanced_accuracy"] == 0.5


def test_labels_that_only_references_have_become_classes() -> None:
    rows = make_rows(["z", "a"], ["a", "a"])
    assert classes_of(rows, ("a",)) == ("a", "z")
    assert measure(rows, ["recall_macro"], ("a",))["recall_macro"] == 0.5


def test_the_rarer_label_is_positive() -> None:
    rows = make_rows(["ham"] * 5 + ["spam"] * 2, ["ham"] * 6 + ["spam"])
    assert rarer_label(rows, ("ham", "spam")) == rarer_label(rows, ("spam", "ham")) == "spam"
    ours = measure(rows, ["f1_positive", "f1[spam]"], ("ham", "spam"))
    assert ours["f1_positive"] == ours["f1[spam]"] == pytest.approx(2 / 3)


def test_auc_is_undefined_where_one_class_is_missing() -> None:
    rows = [r for r in make_scored(50, ("a", "b")) if r.reference == "a"]
    assert np.isnan(measure(rows, ["roc_auc"], ("a", "b"))["roc_auc"])


def test_no_rows_and_unknown_names_are_the_users_to_mend() -> None:
    with pytest.raises(DataError, match="no rows"):
        measure([], ["accuracy"], LABELS)
    with pytest.raises(RecipeError, match="did you mean accuracy"):
        measure(make_rows(["a"], ["a"]), ["acuracy"], LABELS)
