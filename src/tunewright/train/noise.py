"""Noise on the embeddings in training, against learning rows by heart.

Source: NEFTune (Jain et al. 2023).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def add_embedding_noise(model: Any, alpha: float) -> None:
    """Let training see embeddings with noise, uniform within alpha / sqrt(T * H) on either side.

    T is the length of the batch, padding included, as its authors' code has it. Evaluation sees
    none. The noise follows from the step's seed, so a resumed run sees the same.
    """

    def noisy(module: nn.Module, args: Any, embedded_BTH: Tensor) -> Tensor:
        if not module.training:
            return embedded_BTH
        reach = alpha / (embedded_BTH.shape[-2] * embedded_BTH.shape[-1]) ** 0.5
        noise = torch.empty_like(embedded_BTH).uniform_(-reach, reach)
        return embedded_BTH + noise

    embedding = model.get_input_embeddings()
    embedding.register_forward_hook(noisy)
    embedding.adds_noise = True  # the packed paths look for this: they join rows into one
