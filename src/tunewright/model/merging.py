"""Two models of one base made one: what each learned, added up.

linear: weighted sum of what changed ("task arithmetic", Ilharco et al. 2023). ties: only the
largest changes of each, and only those that agree in sign (Yadav et al. 2023). dare: changes
dropped at random and the rest made larger, then the sum (Yu et al. 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Merge = Callable[[Sequence[Tensor], Sequence[float], float, torch.Generator], Tensor]


def linear(
    deltas: Sequence[Tensor], weights: Sequence[float], density: float, draw: torch.Generator
) -> Tensor:
    """Weighted sum of the changes."""
    return torch.stack([w * d for w, d in zip(weights, deltas, strict=True)]).sum(dim=0)


def ties(
    deltas: Sequence[Tensor], weights: Sequence[float], density: float, draw: torch.Generator
) -> Tensor:
    """Of each the share `density` that is largest; where signs differ, the heavier side's mean."""
    kept = torch.stack([w * _largest(d, density) for w, d in zip(weights, deltas, strict=True)])
    sign = torch.sign(kept.sum(dim=0))
    agrees = (torch.sign(kept) == sign) & (kept != 0)
    shares = torch.tensor(list(weights), dtype=kept.dtype).view(-1, *[1] * (kept.dim() - 1))
    weight = (agrees * shares).sum(dim=0)
    mean = (kept * agrees).sum(dim=0) / weight.clamp_min(1e-12)
    # As large as one model's change where one alone speaks, as the weighted sum where all agree.
    return mean * sum(weights) * (weight > 0)


def dare(
    deltas: Sequence[Tensor], weights: Sequence[float], density: float, draw: torch.Generator
) -> Tensor:
    """Each entry kept with chance `density` and divided by it, then the weighted sum."""
    thinned = [
        d * (torch.rand(d.shape, generator=draw) < density).to(d.dtype) / density for d in deltas
    ]
    return linear(thinned, weights, density, draw)


MERGES: dict[str, Merge] = {"linear": linear, "ties": ties, "dare": dare}


def merge_states(
    start: Mapping[str, Tensor],
    ends: Sequence[Mapping[str, Tensor]],
    method: str,
    *,
    weights: Sequence[float],
    density: float = 0.5,
    seed: int = 17,
) -> dict[str, Tensor]:
    """Weights by name, float32: the start and what all ends learned beyond it.

    weights: of each end's changes; 1 takes them whole. Names and shapes that are not in all of them
    are left out: a head for other labels is not for this to decide.
    """
    draw = torch.Generator().manual_seed(seed)
    merged = {}
    for name in sorted(start):
        first = start[name]
        if not first.is_floating_point() or any(
            name not in end or end[name].shape != first.shape for end in ends
        ):
            continue
        first = first.float()
        deltas = [end[name].float() - first for end in ends]
        merged[name] = first + MERGES[method](deltas, weights, density, draw)
    return merged


def _largest(delta: Tensor, density: float) -> Tensor:
    """The change with all but its largest entries at zero."""
    keep = max(1, round(density * delta.numel()))
    if keep >= delta.numel():
        return delta
    least = delta.abs().flatten().kthvalue(delta.numel() - keep + 1).values
    return torch.where(delta.abs() >= least, delta, torch.zeros_like(delta))
