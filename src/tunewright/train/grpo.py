"""Learning from graded answers: group-relative policy optimisation.

Sources: GRPO (Shao et al. 2024), its token-wise mean (DAPO, Yu et al. 2025), clipping (PPO,
Schulman et al. 2017), the divergence estimate k3 (Schulman 2020). Equal to TRL's GRPOTrainer on
the same answers (bench/grpo_trl.py).

Shapes: N target tokens, G answers to one prompt.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tunewright.data.batch import Batch
from tunewright.train.objectives import target_losses

EPSILON = 1e-4
"""Added to a group's deviation, as TRL does."""


def grpo(
    model: nn.Module, batch: Batch, *, clip: float = 0.2, beta: float = 0.04,
    label_smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    """Weighted sum over tokens of the clipped policy loss and beta times the divergence.

    The divergence is from where training began; both log-probabilities travel with the rows.
    """
    assert batch.advantage_N is not None and batch.target_weight_N is not None
    logps_N = -target_losses(model, batch)
    before_N = logps_N.detach() if batch.before_N is None else batch.before_N
    ratio_N = torch.exp(logps_N - before_N)
    clipped_N = ratio_N.clamp(1 - clip, 1 + clip)
    losses_N = -torch.min(ratio_N * batch.advantage_N, clipped_N * batch.advantage_N)
    if beta and batch.start_N is not None:
        gap_N = batch.start_N - logps_N
        losses_N = losses_N + beta * (gap_N.exp() - gap_N - 1)
    return (losses_N * batch.target_weight_N).sum()


def advantages(rewards_BG: Tensor, *, scale: bool = True) -> Tensor:
    """How much better each answer is than the mean of its group, in deviations of the group."""
    centred_BG = rewards_BG - rewards_BG.mean(dim=1, keepdim=True)
    return centred_BG / (rewards_BG.std(dim=1, keepdim=True) + EPSILON) if scale else centred_BG
