"""Which fast path a model gets, in words for the log."""

from __future__ import annotations

import torch
from torch import nn

from tunewright.model import kernels
from tunewright.model.decoder import fast_decoder
from tunewright.model.encoder import fast_encoder
from tunewright.model.fast import speed_up


def make_fast(model: nn.Module) -> str:
    """Switch on what is fast for this model, and say in one sentence what that is."""
    swapped = speed_up(model)
    built, why = kernels.compiled()
    how = f"fused kernels, {why}" if built else f"plain torch: {why}"
    if next(model.parameters()).dtype != torch.bfloat16:
        how = "plain torch: the kernels are for bf16"
    if fast_decoder(model) is not None:
        return f"fast path: whole decoder layers, rows without padding ({how})"
    if fast_encoder(model) is not None:
        return f"fast path: whole encoder layers, rows without padding ({how})"
    if swapped:
        return f"fast path: {swapped} LoRA layers"
    return f"fast path: none for this model, torch's own layers are used ({how})"
