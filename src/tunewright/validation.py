"""The look at validation during training: cheap, without intervals, on the metric that decides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from tunewright.metrics.table import find_metric, lacks, value_of
from tunewright.model.load import Base
from tunewright.records import Prediction
from tunewright.setup import Setup, first_by_content
from tunewright.train.loop import Evaluate

MOST_GENERATED = 200
"""Validation rows that a generative model answers, and is scored on, at each look."""
SHOWN_METRICS = 3


def make_evaluate(setup: Setup, base: Base, metrics: Sequence[str]) -> Evaluate | None:
    """A function that judges `base` as it is now on validation; None without validation rows.

    It gives (deciding metric with larger better, loss, the first few metrics).
    """
    examples = setup.prepared.splits.validation
    if not examples:
        return None
    generative = setup.judged_task in ("generate", "chat")
    shown = first_by_content(examples, MOST_GENERATED) if generative else examples
    labels = setup.judged_labels
    asker = setup.asker(base)

    def evaluate() -> tuple[float, float, Mapping[str, float]]:
        predictions = asker.predict(shown, system="tuned", split="validation")
        values = {
            name: value_of(metric, predictions, labels)
            for name, metric in ((name, find_metric(name)) for name in metrics[:SHOWN_METRICS])
            if not lacks(metric, predictions)
        }
        deciding = values.get(metrics[0], math.nan)
        sign = 1.0 if find_metric(metrics[0]).higher_is_better else -1.0
        return sign * deciding, _loss(predictions, labels, setup), values

    return evaluate


def _loss(predictions: Sequence[Prediction], labels: Sequence[str], setup: Setup) -> float:
    """Mean loss in nats (squared error on the standardised scale for numbers)."""
    if setup.judged_task in ("generate", "chat", "continue"):
        nats = sum(p.nll_nats or 0.0 for p in predictions)
        return nats / max(1, sum(p.num_tokens or 0 for p in predictions))
    if setup.task == "regress":
        errors = [float(p.prediction) - float(p.reference) for p in predictions]  # type: ignore[arg-type]
        return float(np.mean(np.square(errors))) / setup.scale.deviation**2
    if setup.task == "tag":
        return math.nan  # spans carry no loss; the deciding metric decides alone
    index = {label: i for i, label in enumerate(labels)}
    losses = []
    for p in predictions:
        assert p.probabilities is not None
        wanted = p.reference if isinstance(p.reference, tuple) else (p.reference,)
        hits = {index[str(label)] for label in wanted if label in index}
        multi = isinstance(p.reference, tuple)
        for i, probability in enumerate(p.probabilities):
            if i in hits:
                losses.append(-math.log(max(probability, 1e-12)))
            elif multi:
                losses.append(-math.log(max(1.0 - probability, 1e-12)))
    return float(np.sum(losses)) / max(1, len(predictions))
