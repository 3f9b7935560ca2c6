"""How long training takes: operations over a rate, checked by a probe where one was made.

Sources: 2 operations per weight and token forward, twice that backward (Kaplan et al. 2020);
attention adds 4 T a per token and layer forward (Korthikanti et al. 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunewright.cost.memory import Work, num_trained
from tunewright.cost.shape import ModelShape

SHARE_OF_PEAK = {"cpu": 0.35, "cuda": 0.35}
"""What training usually reaches of the rate of plain matrix products. Published figures for GPUs
run from 30 to 55 % of the data sheet; short rows and small models stay below."""
UPDATE_BYTES = 32
"""Moved per trained weight and update: gradient, weight, two moments, read and written."""


@dataclass(frozen=True, slots=True)
class Seconds:
    """Seconds with an interval; parts by name. probed: measured steps stand behind it."""

    training: float
    evaluation: float
    low: float
    high: float
    probed: bool

    @property
    def total(self) -> float:
        """Training and the looks at validation and test together."""
        return self.training + self.evaluation


def training_flops(shape: ModelShape, work: Work, tokens: float) -> float:
    """Operations of training on this many tokens: 4 per frozen weight and token, 6 per trained."""
    trained = num_trained(shape, work)
    if work.method == "full":
        per_token = 6.0 * _multiplied(shape, work)
    else:
        per_token = 4.0 * _multiplied(shape, work) + 6.0 * trained
    per_token += 12.0 * work.row_tokens * shape.attention_width * shape.layers
    if work.checkpointing:
        per_token *= 4.0 / 3.0
    return tokens * per_token


def answer_flops(shape: ModelShape, work: Work, tokens: float) -> float:
    """Operations of reading this many tokens once, without learning."""
    attention = 4.0 * work.row_tokens * shape.attention_width * shape.layers
    return tokens * (2.0 * _multiplied(shape, work) + attention)


def _multiplied(shape: ModelShape, work: Work) -> float:
    """Weights that a token is multiplied by. The output layer counts at the target positions."""
    share = min(1.0, work.outputs / max(1, work.tokens))
    output = shape.hidden_size * work.num_outputs * share
    extra = work.extra_layers * shape.num_active_linear / max(1, shape.layers)
    return shape.num_active_linear + extra + output


def forecast_seconds(
    shape: ModelShape,
    work: Work,
    *,
    tokens: float,
    steps: int,
    answered_tokens: float,
    flops_per_s: float,
    bytes_per_s: float,
    device_kind: str,
    count: int = 1,
) -> Seconds:
    """Seconds of a run from rates alone.

    tokens: trained on in all, padding counted. answered_tokens: read at the looks at validation and
    test. Several devices divide the work with a loss of a tenth.
    """
    rate = max(1.0, flops_per_s * SHARE_OF_PEAK.get(device_kind, 0.35))
    rate *= count * (0.9 if count > 1 else 1.0)
    updates = steps * num_trained(shape, work) * UPDATE_BYTES / max(1.0, bytes_per_s * count)
    training = training_flops(shape, work, tokens) / rate + updates
    evaluation = answer_flops(shape, work, answered_tokens) / rate
    total = training + evaluation
    return Seconds(training, evaluation, 0.4 * total, 2.5 * total, probed=False)


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds of a step as fixed_s + token_s times its padded tokens; spread_s of one step."""

    fixed_s: float
    token_s: float
    spread_s: float
    steps: int

    def seconds(self, tokens: float, steps: int) -> float:
        """Seconds of this many steps with this many tokens in all."""
        return self.fixed_s * steps + self.token_s * tokens


def find_pace(tokens: Sequence[float], seconds: Sequence[float]) -> Pace:
    """The pace behind measured steps: a line through the origin's right, by least squares.

    Where all steps are alike in size, all of it counts as per token. Needs at least one step.
    """
    n = len(tokens)
    mean_t, mean_s = sum(tokens) / n, sum(seconds) / n
    spread_t = sum((t - mean_t) ** 2 for t in tokens)
    fixed, slope = 0.0, mean_s / max(1.0, mean_t)
    # A slope from sizes that hardly differ is noise.
    if n >= 4 and spread_t > n * (0.15 * mean_t) ** 2:
        found = (
            sum((t - mean_t) * (s - mean_s) for t, s in zip(tokens, seconds, strict=True))
            / spread_t
        )
        slope = min(mean_s / max(1.0, mean_t), max(0.0, found))
        fixed = mean_s - slope * mean_t
    left = [s - fixed - slope * t for t, s in zip(tokens, seconds, strict=True)]
    spread = (sum(value * value for value in left) / max(1, n - 1)) ** 0.5
    return Pace(fixed, slope, spread, n)
