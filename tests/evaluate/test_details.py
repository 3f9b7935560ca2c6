from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix
from tests.metrics.test_labels import LABELS, make_rows, make_scored
from tests.metrics.test_spans import ROWS as SPAN_ROWS
from tests.metrics.test_text import make_row

from tunewright.evaluate.details import (
    MAX_CLASSES,
    MAX_TEXT,
    OTHER_ANSWER,
    OTHER_LABELS,
    before_and_after,
    calibration,
    confusion,
    make_details,
    probable_label_errors,
    worst_classes,
    worst_rows,
)
from tunewright.records import Example, Prediction
from tunewright.store import to_plain


def test_confusion_agrees_with_sklearn() -> None:
    rows = make_scored(200, LABELS)
    found = confusion(rows, LABELS)
    expected = confusion_matrix(
        [r.reference for r in rows], [r.prediction for r in rows], labels=LABELS
    )
    assert found == {"labels": list(LABELS), "matrix": expected.tolist()}


def test_confusion_keeps_every_row_whatever_was_answered() -> None:
    found = confusion(make_rows(["a", "b"], ["nonsense", None]), ("a", "b"))
    assert found is not None
    assert found["labels"] == ["a", "b", OTHER_ANSWER]
    assert np.sum(found["matrix"]) == 2
    many = [f"label {i}" for i in range(300)]
    large = confusion(make_rows(list(many), ["label 7"] * 300), many)
    assert large is not None
    assert len(large["labels"]) == MAX_CLASSES
    assert large["labels"][-1] == OTHER_LABELS
    assert np.sum(large["matrix"]) == 300
    assert confusion(make_rows([("a", "b")], [("a",)]), ("a", "b")) is None


def test_calibration_bins_and_error() -> None:
    rows = make_scored(300, LABELS)
    found = calibration(rows)
    assert found is not None
    assert sum(item["count"] for item in found["bins"]) == 300
    assert 0 <= found["ece"] <= 1
    assert calibration([replace(rows[0], confidence=None)]) is None


def test_worst_classes_name_their_double() -> None:
    rows = make_rows(
        ["a"] * 4 + ["b"] * 4 + ["c"] * 2, ["b", "b", "b", "a"] + ["b"] * 4 + ["c"] * 2
    )
    found = worst_classes(rows, LABELS, train_counts={"a": 5})
    assert [item["label"] for item in found] == ["a", "b"]
    assert found[0]["confused_with"] == "b"
    assert found[0]["f1"] == pytest.approx(0.4)
    assert (found[0]["n"], found[0]["train_rows"], found[1]["train_rows"]) == (4, 5, 0)


def test_worst_rows_are_the_surest_errors() -> None:
    rows = [
        replace(row, confidence=c)
        for row, c in zip(
            make_rows(["a"] * 4, ["b", "b", "a", "b"]), (0.5, 0.9, 1.0, 0.7), strict=True
        )
    ]
    found = worst_rows(rows, task="classify", places={"1": "data.csv:7"})
    assert [item["id"] for item in found] == ["1", "3", "0"]
    assert found[0]["place"] == "data.csv:7"


def test_worst_rows_of_numbers_text_and_spans() -> None:
    numbers = [Prediction(str(i), "test", "x", "", 1.0, p) for i, p in enumerate((1.0, 5.0, None))]
    assert [item["id"] for item in worst_rows(numbers, task="regress")] == ["2", "1"]
    texts = [make_row(0, "b c", ["b c"]), make_row(1, "b x", ["b c"]), make_row(2, "y", ["b c"])]
    assert [item["id"] for item in worst_rows(texts, task="generate")] == ["2", "1"]
    assert {item["id"] for item in worst_rows(SPAN_ROWS, task="tag")} == {"0", "1", "4"}


def test_examples_show_what_broke_beside_what_was_fixed() -> None:
    true = ["a"] * 40
    base = make_rows(true, ["b"] * 30 + ["a"] * 10)
    tuned = make_rows(true, ["a"] * 30 + ["b"] * 3 + ["a"] * 7)
    found = before_and_after(base, tuned, task="classify")
    assert len(found) == 20
    assert [item["change"] for item in found].count("broken") == 2
    assert before_and_after(base, base, task="classify") == []
    only_broken = before_and_after(make_rows(true, true[:]), tuned, task="classify")
    assert [item["change"] for item in only_broken] == ["broken"] * 3


def test_two_sure_systems_against_a_label_suspect_the_label() -> None:
    rows = [
        Prediction(str(i), "test", "tuned", f"text {i}", label, "a" if i < 20 else "b", confidence)
        for i, (label, confidence) in enumerate(
            [("a", 0.9)] * 18 + [("b", 0.99), ("b", 0.5)] + [("b", 0.9)] * 20
        )
    ]
    probe = [replace(row, system="linear_probe") for row in rows]
    found = probable_label_errors(rows, [probe], places={"18": "data.csv:20"})
    assert [(item["id"], item["label"], item["suggested"]) for item in found] == [("18", "b", "a")]
    assert found[0]["place"] == "data.csv:20"
    doubting = [replace(row, prediction="b") for row in probe]
    assert probable_label_errors(rows, [doubting]) == []
    assert probable_label_errors(rows, [[replace(row, confidence=None) for row in probe]]) == []


@pytest.mark.parametrize("task", ["classify", "tag", "generate", "regress", "continue"])
def test_details_are_plain_and_fit_the_task(task: str) -> None:
    rows = {
        "classify": make_scored(60, LABELS),
        "tag": SPAN_ROWS,
        "generate": [make_row(i, "a b", ["a c"]) for i in range(5)],
        "regress": [Prediction("0", "test", "x", "", 1.0, 2.0)],
        "continue": [
            Prediction("0", "test", "x", "long text", None, None, nll_nats=3.0, num_bytes=9)
        ],
    }[task]
    train = [Example("t", "x:1", "text", rows[0].reference)]
    found = make_details(
        {"tuned": rows, "base": rows}, train=train, layout_labels=LABELS, task=task
    )
    json.dumps(to_plain(found))
    assert found["labels"] == list(LABELS)
    assert ("confusion" in found) == (task == "classify")
    assert "examples" not in found


def test_long_texts_are_cut_and_no_rows_give_no_details() -> None:
    rows = [replace(make_rows(["a"], ["b"])[0], input="x" * 1_000_000)]
    details = make_details({"tuned": rows}, train=(), layout_labels=("a", "b"), task="classify")
    assert len(details["worst_rows"][0]["input"]) == MAX_TEXT
    assert make_details({}, train=(), layout_labels=(), task="classify") == {}
