"""The reward model: a number for a prompt with its answer, higher for the better one.

Source: Bradley and Terry 1952; as in Stiennon et al. 2020. Equal to TRL's RewardTrainer on the same
batches (bench/rewards.py).

Shapes: B rows, 2B answers (better ones, then worse ones).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from tunewright.data.batch import Batch, model_inputs


def reward_model(
    model: nn.Module, batch: Batch, *, center: float = 0.0, label_smoothing: float = 0.0
) -> Tensor:
    """Sum over rows of the logistic loss of the difference of two rewards.

    center: weight of the square of their sum, which holds rewards around zero. label_smoothing:
    share of the labels believed to be wrong.
    """
    better_B, worse_B = model(**model_inputs(batch)).logits.float().squeeze(-1).chunk(2)
    gap_B = better_B - worse_B
    losses_B = -(1 - label_smoothing) * F.logsigmoid(gap_B)
    if label_smoothing:
        losses_B = losses_B - label_smoothing * F.logsigmoid(-gap_B)
    if center:
        losses_B = losses_B + center * (better_B + worse_B) ** 2
    total: Tensor = (losses_B * batch.weight_B).sum()
    return total
