"""Learning from a larger model's distributions (Hinton et al. 2015, "Distilling the Knowledge").

Shapes: N target tokens, V vocabulary (the part that both models have).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunewright.data.batch import Batch, model_inputs
from tunewright.model.generate import target_logits
from tunewright.train.objectives import student_logits


def distilled(
    model: nn.Module, batch: Batch, *, teacher: nn.Module, temperature: float = 1.0,
    weight: float = 0.5, label_smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    """Weighted sum over target tokens of cross-entropy and divergence from the teacher.

    (1 - weight) times the cross-entropy of the row's own token, and weight times temperature
    squared times KL(teacher, student), both softened by the temperature.
    """
    assert batch.target_weight_N is not None and batch.predicts_BT is not None
    logits_NV = student_logits(model, batch).float()
    with torch.no_grad():
        wished_NV = target_logits(teacher, model_inputs(batch), batch.predicts_BT).float()
    hard_N = F.cross_entropy(
        logits_NV, batch.target, reduction="none", label_smoothing=label_smoothing
    )
    both = min(logits_NV.shape[1], wished_NV.shape[1])  # rows that only fill a table up are cut
    soft_N = F.kl_div(
        (logits_NV[:, :both] / temperature).log_softmax(1),
        (wished_NV[:, :both] / temperature).log_softmax(1),
        reduction="none", log_target=True,
    ).sum(1)  # fmt: skip
    losses_N = (1 - weight) * hard_N + weight * temperature**2 * soft_N
    return (losses_N * batch.target_weight_N).sum()
