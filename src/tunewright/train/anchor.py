"""Elastic weight consolidation: weights that old rows depend on are held near where they began.

Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks". Fisher information
is the mean over old rows of the squared gradient of their own loss, before the first step.

Shapes: those of the parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tunewright.data.batch import make_batch
from tunewright.data.render import Row
from tunewright.train.objectives import Objective

MOST_ROWS = 256
"""Old rows that Fisher information is measured on; one backward pass each."""


def measure_fisher(
    model: nn.Module,
    parameters: Sequence[tuple[str, nn.Parameter]],
    rows: Sequence[Row],
    objective: Objective,
    *,
    pad_id: int,
    device: torch.device,
    advance: Callable[[float], None] = lambda share: None,
) -> dict[str, Tensor]:
    """By name, float32: how much the loss of old rows depends on each weight. At least one row."""
    chosen = list(rows[:MOST_ROWS])
    assert chosen, "no old rows"
    fisher = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters}
    was_training = model.training
    model.eval()
    for done, row in enumerate(chosen, 1):
        model.zero_grad(set_to_none=True)
        loss = objective(model, make_batch([row], pad_id=pad_id, device=device))
        loss.backward()  # type: ignore[no-untyped-call]
        for name, parameter in parameters:
            if parameter.grad is not None:
                fisher[name] += parameter.grad.float() ** 2
        advance(done / len(chosen))
    model.zero_grad(set_to_none=True)
    model.train(was_training)
    return {name: tensor / len(chosen) for name, tensor in fisher.items()}


def make_anchor(
    parameters: Sequence[tuple[str, nn.Parameter]], fisher: dict[str, Tensor], strength: float
) -> Callable[[], Tensor]:
    """The penalty strength / 2 * sum of F (w - w0)^2, where w0 is where the weights are now."""
    held = [(p, p.detach().clone(), fisher[name]) for name, p in parameters if name in fisher]

    def penalty() -> Tensor:
        parts = [(f * (p.float() - start.float()) ** 2).sum() for p, start, f in held]
        return 0.5 * strength * torch.stack(parts).sum()

    return penalty
