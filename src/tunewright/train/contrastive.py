"""Objectives for vectors: texts that belong together shall lie nearer than those that do not.

As everywhere a *sum* over rows is returned. The other texts are those of the micro-batch, so a
larger training.max_batch_tokens makes the task harder, and most often the model better.

Sources: multiple negatives ranking (Henderson et al. 2017), InfoNCE (van den Oord et al. 2018).

Shapes: B rows, C texts to choose from, H hidden.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunewright.data.batch import Batch
from tunewright.model.embed import embed
from tunewright.train.objectives import Objective


def in_batch_negatives(
    model: nn.Module, batch: Batch, *, pooling: str = "mean", temperature: float = 0.05,
    label_smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    """Sum of cross-entropies of each input's own text among all texts of the batch.

    Texts that equal the right one, and those of rows with an equal input, are no negatives.
    """
    vectors, num_rows = _vectors(model, batch, pooling)
    scores_BC = vectors[:num_rows] @ vectors[num_rows:].T / temperature
    scores_BC = scores_BC.masked_fill(_equals(batch, num_rows), -torch.inf)
    target_B = torch.arange(num_rows, device=scores_BC.device)
    losses_B = F.cross_entropy(scores_BC, target_B, reduction="none")
    if label_smoothing:
        known_BC = torch.isfinite(scores_BC)
        logs_BC = scores_BC.log_softmax(1).masked_fill(~known_BC, 0.0)
        spread_B = -logs_BC.sum(1) / known_BC.sum(1)
        losses_B = (1 - label_smoothing) * losses_B + label_smoothing * spread_B
    return (losses_B * batch.weight_B).sum()


def triplet(
    model: nn.Module, batch: Batch, *, pooling: str = "mean", margin: float = 0.2,
    label_smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    """Sum of max(0, margin - cosine to the right text + cosine to the wrong one)."""
    vectors, _ = _vectors(model, batch, pooling)
    anchor_BH, right_BH, wrong_BH = vectors.chunk(3)
    gap_B = (anchor_BH * right_BH).sum(1) - (anchor_BH * wrong_BH).sum(1)
    return (F.relu(margin - gap_B) * batch.weight_B).sum()


def _vectors(model: nn.Module, batch: Batch, pooling: str) -> tuple[Tensor, int]:
    return embed(model, batch.ids_BT, batch.mask_BT, pooling), batch.weight_B.numel()


def _equals(batch: Batch, num_rows: int) -> Tensor:
    """(B, C) True where a text is as right as the row's own, and not it."""
    ids = batch.ids_BT if batch.mask_BT is None else batch.ids_BT * batch.mask_BT
    first, texts = ids[:num_rows], ids[num_rows:]
    # What is right for one of several equal inputs is right for all of them.
    same_BC = (_same(first, first).float() @ _same(texts[:num_rows], texts).float()) > 0
    own = torch.arange(num_rows, device=ids.device)
    same_BC[own, own] = False
    return same_BC


def _same(a: Tensor, b: Tensor) -> Tensor:
    return (a[:, None, :] == b[None, :, :]).all(dim=2)


CONTRASTIVE: dict[str, Objective] = {"in_batch": in_batch_negatives, "triplet": triplet}
