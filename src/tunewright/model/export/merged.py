"""One plain model: every adapter folded into its weights, in fp32, rounded once on saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunewright.model.load import Base, quiet
from tunewright.model.quantize import plain_config
from tunewright.model.weights import merged_state

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def plain_state(base: Base) -> dict[str, Tensor]:
    """Weights under the names of the plain transformers model, adapters folded in, on the CPU."""
    state = merged_state(base.model) if base.plain is not base.model else base.model.state_dict()
    return {name: tensor.detach().cpu() for name, tensor in state.items()}


def save_merged(base: Base, folder: Path, *, precision: str = "fp32") -> None:
    """Write a folder that transformers loads alone: weights, config, tokenizer, settings.

    precision: fp32, bf16 or fp16, to which the weights are rounded.
    """
    dtype = DTYPES[precision]
    state = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in plain_state(base).items()
    }
    plain: Any = base.plain
    before, quantizer = plain.config, getattr(plain, "hf_quantizer", None)
    with quiet():
        try:
            plain.config, plain.hf_quantizer = plain_config(before), None
            plain.config.dtype = dtype
            plain.save_pretrained(folder, state_dict=state)
        finally:
            plain.config, plain.hf_quantizer = before, quantizer
        base.tokenizer.save_pretrained(folder)
