"""The look at validation during training: cheap, without intervals, on the metric that decides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tunewright.evaluate.predict import Asker
from tunewright.evaluate.saved import prediction_from
from tunewright.evaluate.score import score
from tunewright.metrics.calibration import best_temperature, with_temperature
from tunewright.metrics.stats import Z
from tunewright.metrics.table import find_metric, lacks, value_of
from tunewright.model.load import Base
from tunewright.records import Example, Prediction
from tunewright.setup import Setup, first_by_content
from tunewright.store import to_plain
from tunewright.train.loop import Evaluate
from tunewright.train.parallel import ALONE, Ranks

MOST_GENERATED = 200
"""Validation rows that a generative model answers, and is scored on, at each look."""
SHOWN_METRICS = 3


@dataclass
class Judge:
    """Judges a model as it is now on validation rows; of several ranks, each asks its share."""

    setup: Setup
    asker: Asker
    examples: Sequence[Example]
    metrics: Sequence[str]
    ranks: Ranks = ALONE
    last: Sequence[Prediction] = field(default=(), repr=False)

    def look(self) -> tuple[float, float, Mapping[str, float]]:
        """(deciding metric with larger better, loss, the first few metrics)."""
        labels = self.setup.judged_labels
        predictions = self._ask()
        self.last = predictions
        chosen = {name: find_metric(name) for name in self.metrics[:SHOWN_METRICS]}
        values = {
            name: value_of(metric, predictions, labels)
            for name, metric in chosen.items()
            if not lacks(metric, predictions)
        }
        deciding = values.get(self.metrics[0], math.nan)
        sign = 1.0 if chosen[self.metrics[0]].higher_is_better else -1.0
        return sign * deciding, _loss(predictions, labels, self.setup), values

    def _ask(self) -> Sequence[Prediction]:
        ranks, everything = self.ranks, self.examples
        # Ranks that share the weights must run the same layers at the same time, and vectors are
        # judged among all the others: there all ask all.
        whole = ranks.sharding is not None or self.setup.judged_task == "embed"
        if ranks.size == 1 or whole or len(everything) < ranks.size:
            return self.asker.predict(everything, system="tuned", split="validation")
        mine = everything[ranks.rank :: ranks.size]
        asked = self.asker.predict(mine, system="tuned", split="validation")
        parts = ranks.gather([to_plain(prediction) for prediction in asked])
        return [
            prediction_from(parts[number % ranks.size][number // ranks.size])
            for number in range(len(everything))
        ]

    def noise(self) -> float:
        """Standard error of the deciding metric at the last look; 0 where it is not known."""
        name = self.metrics[0]
        if not self.last or lacks(find_metric(name), self.last):
            return 0.0
        labels, seed = self.setup.judged_labels, self.setup.recipe.training.seed
        low, high = score(self.last, [name], labels=labels, seed=seed).metrics[name].ci95
        error = (high - low) / (2 * Z)
        return error if math.isfinite(error) else 0.0


def make_judge(
    setup: Setup, base: Base, metrics: Sequence[str], ranks: Ranks = ALONE
) -> Judge | None:
    """A judge of `base` on the validation rows; None without any."""
    examples = setup.prepared.splits.validation
    # A judge is asked once, at the end: looks at validation go by what needs none.
    metrics = tuple(name for name in metrics if name != "judge") or ("chrf",)
    if not examples:
        return None
    generative = setup.judged_task in ("generate", "chat")
    shown = first_by_content(examples, MOST_GENERATED) if generative else examples
    # Each look at vectors is taken among the validation rows' own texts: all others cost too much.
    return Judge(setup, replace(setup.asker(base), passages=()), shown, metrics, ranks)


def make_evaluate(setup: Setup, base: Base, metrics: Sequence[str]) -> Evaluate | None:
    """What a judge of `base` says at each look; None without validation rows."""
    judge = make_judge(setup, base, metrics)
    return None if judge is None else judge.look


def _loss(predictions: Sequence[Prediction], labels: Sequence[str], setup: Setup) -> float:
    """Mean loss in nats (squared error on the standardised scale for numbers).

    Of a classifier: after the temperature that will be folded into it, so that overconfidence,
    which is mended at the end, does not hide what was learned (Berta et al. 2025, "Rethinking
    Early Stopping: Refine, Then Calibrate").
    """
    if setup.judged_task in ("generate", "chat", "continue"):
        if all(p.nll_nats is None for p in predictions):
            return math.nan  # no answers to be surprised at: the deciding metric decides alone
        nats = sum(p.nll_nats or 0.0 for p in predictions)
        return nats / max(1, sum(p.num_tokens or 0 for p in predictions))
    if setup.task == "regress":
        errors = [float(p.prediction) - float(p.reference) for p in predictions]  # type: ignore[arg-type]
        return float(np.mean(np.square(errors))) / setup.scale.deviation**2
    if setup.task == "embed":
        return float(np.mean([p.graded["surprise"] for p in predictions]))
    if setup.task == "tag":
        return math.nan  # spans carry no loss; the deciding metric decides alone
    if setup.task == "classify" and setup.recipe.training.temperature == "auto":
        predictions = with_temperature(predictions, best_temperature(predictions, labels))
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
