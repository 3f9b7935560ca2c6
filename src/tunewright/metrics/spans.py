"""Metrics of labelled spans. A predicted span is right when start, end and label all agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tunewright.metrics.labels import sparse_counts, with_count
from tunewright.records import Output, Prediction, Span

Array = NDArray[np.float64]


def span_set(output: Output) -> set[Span]:
    """The spans of one output; empty for None."""
    return (
        {span for span in output if isinstance(span, Span)} if isinstance(output, tuple) else set()
    )


def span_rows(predictions: Sequence[Prediction], labels: Sequence[str]) -> sparse.csr_array:
    """(n, 3 * (C + 1)) counts of spans: right, predicted, true per label; last: "any other".

    The layout is that of labels.class_rows, so the same F1, precision and recall read it.
    """
    met = {span.label for row in predictions for span in span_set(row.reference)}
    known = tuple(dict.fromkeys(labels))
    classes = known + tuple(sorted(met - set(known)))
    index = {label: position for position, label in enumerate(classes)}
    width = len(classes) + 1
    hits: list[tuple[int, int]] = []
    for row, prediction in enumerate(predictions):
        found, true = span_set(prediction.prediction), span_set(prediction.reference)
        hits += [(row, index[span.label]) for span in found & true]
        hits += [(row, width + index.get(span.label, width - 1)) for span in found]
        hits += [(row, 2 * width + index[span.label]) for span in true]
    return sparse_counts(hits, (len(predictions), 3 * width))


def one_label_rows(
    predictions: Sequence[Prediction], labels: Sequence[str], *, label: str
) -> Array:
    """(n, 3): right, predicted and true spans of one label."""
    rows = np.zeros((len(predictions), 3))
    for position, row in enumerate(predictions):
        found = {span for span in span_set(row.prediction) if span.label == label}
        true = {span for span in span_set(row.reference) if span.label == label}
        rows[position] = (len(found & true), len(found), len(true))
    return rows


def right_span_rows(predictions: Sequence[Prediction], labels: Sequence[str]) -> Array:
    """(n, 2): 1 where all spans of the row are right and none is added, and 1."""
    right = [span_set(row.prediction) == span_set(row.reference) for row in predictions]
    return with_count(right)
