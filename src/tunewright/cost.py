"""Memory, time and work of a run, forecast by arithmetic alone; no torch.

Sources: 2 FLOPs per weight and token forward, twice that backward (Kaplan et al. 2020); AdamW keeps
two fp32 moments and, beside bf16 weights, an fp32 master copy.
"""

from __future__ import annotations

from dataclasses import dataclass

BYTES = {"fp32": 4, "bf16": 2}
EXPECTED_SHARE_OF_PEAK = 0.35
"""What short rows and elementwise work usually leave of the measured matrix-product rate."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the arithmetic needs to know of a model and its training."""

    num_parameters: int
    num_trained: int
    num_layers: int
    hidden_size: int
    num_outputs: int
    """Vocabulary for language models, classes for classifiers."""
    precision: str
    batch_tokens: int
    output_rows: int
    """Positions whose outputs exist at one time: tokens for language models, rows otherwise."""
    ema: bool = False


def forecast_memory_bytes(shape: Shape) -> int:
    """Peak bytes above the process itself: weights, gradients, optimiser, activations, outputs."""
    width = BYTES[shape.precision]
    weights = shape.num_parameters * width
    gradients = shape.num_trained * (width + 4)
    optimiser = shape.num_trained * (8 + (0 if width == 4 else 4) + (4 if shape.ema else 0))
    # A layer keeps about 34 hidden-size values per token for the backward pass (Korthikanti et
    # al. 2022, without the attention matrix, which scaled-dot-product attention does not keep).
    activations = shape.batch_tokens * shape.hidden_size * shape.num_layers * 17 * width
    outputs = shape.output_rows * shape.num_outputs * (width + 3 * 4)
    return weights + gradients + optimiser + activations + outputs


def training_flops(num_parameters: int, num_trained: int, tokens: int) -> float:
    """Floating-point operations of training: 4 per frozen weight and token, 6 per trained one."""
    frozen = num_parameters - num_trained
    return float(tokens) * (4.0 * frozen + 6.0 * num_trained)


def forecast_seconds(flops: float, flops_per_s: float) -> float:
    """Seconds of training at the usual share of a measured matrix-product rate."""
    return flops / max(1.0, flops_per_s * EXPECTED_SHARE_OF_PEAK)
