"""Confidence that can be believed: a temperature fitted on validation, folded into the head.

The saved model needs no extra step for it and gives the same answers, but for ties that rounding
to bf16 makes or breaks.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tunewright.evaluate.predict import class_logits
from tunewright.journal import Journal
from tunewright.metrics.calibration import fit_temperature
from tunewright.metrics.labels import label_set
from tunewright.model.load import Base
from tunewright.setup import Setup
from tunewright.train.head import scale_outputs
from tunewright.train.loop import Fitted

ROUNDING = 0.05
"""Of the largest logit: what precision may change when a head is scaled."""


def settle_confidence(
    setup: Setup, base: Base, fitted: Fitted, journal: Journal
) -> tuple[Fitted, float | None]:
    """(fitted with a head whose probabilities fit validation, the temperature that did it).

    The temperature is None where nothing was done: no classes, no validation rows, switched off,
    or a model whose logits do not come from one trained linear layer.
    """
    examples = setup.prepared.splits.validation
    if setup.task != "classify" or not examples or setup.recipe.training.temperature == "off":
        return fitted, None
    asker = setup.asker(base)
    logits_NK = class_logits(asker, examples, lambda done: None)
    truth, known = _truth(setup)
    temperature = fit_temperature(logits_NK[known].astype(np.float64), truth[known])
    weights = scale_outputs(base, fitted.weights, 1.0 / temperature)
    if weights is None:
        return fitted, None
    scaled_NK = class_logits(asker, examples, lambda done: None)
    off = float(np.abs(scaled_NK * temperature - logits_NK).max())
    if off > ROUNDING * float(np.abs(logits_NK).max()):
        scale_outputs(base, fitted.weights, 1.0)
        return fitted, None
    journal.say(
        f"confidence: logits divided by {temperature:.2f}, as fits {int(known.sum())} validation "
        "rows; the head carries it"
    )
    return replace(fitted, weights=weights), temperature


def _truth(setup: Setup) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(labels of the validation rows, which of them training knows).

    Labels are (N,) numbers, or (N, K) of 0 and 1 for several a row.
    """
    layout, examples = setup.prepared.layout, setup.prepared.splits.validation
    index = {label: number for number, label in enumerate(layout.labels)}
    if not layout.multi_label:
        truth_N = np.array([index.get(str(example.output), -1) for example in examples])
        return truth_N, truth_N >= 0
    truth_NK = np.zeros((len(examples), len(index)), dtype=np.int64)
    for row, example in enumerate(examples):
        truth_NK[row, [index[label] for label in label_set(example.output) if label in index]] = 1
    return truth_NK, np.ones(len(examples), dtype=bool)
