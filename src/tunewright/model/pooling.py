"""Mean pooling for encoders that were made for it, written as one more layer of their own kind.

A sentence encoder sums a text up by the mean of its token states, yet the classification head that
transformers gives it reads the first token only. A transformer layer whose queries and keys are
zero attends to every token alike, so its output is the mean: adding one keeps the architecture
standard, and the tuned model loads with transformers alone.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import nn

from tunewright.model.load import Base

MEAN_OVER_FIRST = 32.0
"""How much the mean outweighs the residual of the first token before the layer's normalisation."""
POOLER_GAIN = 0.3
"""Keeps the pooler's tanh near its linear part for normalised states."""


def wants_mean_pooling(base: Base) -> bool:
    """Whether the checkpoint says it was trained with mean pooling, and has the shape of BERT."""
    plain = base.plain
    if base.task not in ("classify", "regress") or plain.config.model_type != "bert":
        return False
    settings = base.source.path / "1_Pooling" / "config.json"
    try:
        return bool(json.loads(settings.read_text())["pooling_mode_mean_tokens"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def add_mean_pooling(base: Base, seed: int) -> None:
    """Append a layer that hands the mean of all token states to the pooler; changed in place.

    The same seed gives the same layer.
    """
    plain = base.plain
    layers: Any = plain.bert.encoder.layer
    layer = type(layers[0])(plain.config, layer_idx=len(layers))
    size = plain.config.hidden_size
    attention, output = layer.attention.self, layer.attention.output
    with torch.no_grad():
        for linear in (attention.query, attention.key, layer.output.dense):
            _set(linear, torch.zeros_like(linear.weight))
        _set(attention.value, torch.eye(size))
        _set(output.dense, MEAN_OVER_FIRST * torch.eye(size))
        _set(plain.bert.pooler.dense, POOLER_GAIN * torch.eye(size))
        # The new layer's own MLP must start by adding nothing, yet be able to learn.
        weight, stream = layer.intermediate.dense.weight, torch.Generator().manual_seed(seed)
        nn.init.normal_(weight, std=plain.config.initializer_range, generator=stream)
        nn.init.zeros_(layer.intermediate.dense.bias)
    layer.train(plain.training)
    layers.append(layer.to(device=base.device, dtype=base.dtype))
    plain.config.num_hidden_layers = len(layers)
    base.num_parameters = sum(p.numel() for p in plain.parameters())


def _set(linear: nn.Linear, weight: torch.Tensor) -> None:
    linear.weight.copy_(weight)
    linear.bias.zero_()
