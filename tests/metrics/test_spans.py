from __future__ import annotations

import pytest

from tunewright.metrics.table import measure
from tunewright.records import Prediction, Span


def make_row(number: int, true: list[Span], found: list[Span] | None) -> Prediction:
    answer = None if found is None else tuple(found)
    return Prediction(str(number), "test", "tuned", "text", tuple(true), answer)


CITY, NAME = Span(0, 4, "city"), Span(6, 9, "name")
ROWS = [
    make_row(0, [CITY, NAME], [CITY, Span(6, 8, "name")]),
    make_row(1, [CITY], [Span(0, 4, "name")]),
    make_row(2, [], []),
    make_row(3, [NAME], [NAME]),
    make_row(4, [CITY], None),
]


def test_a_span_counts_only_with_exact_ends_and_label() -> None:
    names = ["span_f1", "span_precision", "span_recall", "span_exact_match", "span_f1[city]"]
    ours = measure(ROWS, names, ("city", "name"))
    assert ours["span_precision"] == pytest.approx(2 / 4)
    assert ours["span_recall"] == pytest.approx(2 / 5)
    assert ours["span_f1"] == pytest.approx(4 / 9)
    assert ours["span_exact_match"] == pytest.approx(2 / 5)
    assert ours["span_f1[city]"] == pytest.approx(2 / 4)


def test_macro_is_the_mean_over_labels() -> None:
    ours = measure(ROWS, ["span_f1_macro", "span_f1[city]", "span_f1[name]"], ("city", "name"))
    assert ours["span_f1_macro"] == pytest.approx(
        (ours["span_f1[city]"] + ours["span_f1[name]"]) / 2
    )


def test_spans_of_an_unknown_label_are_false_alarms() -> None:
    rows = [make_row(0, [CITY], [CITY, Span(1, 2, "planet")])]
    assert measure(rows, ["span_precision"], ("city",))["span_precision"] == 0.5
