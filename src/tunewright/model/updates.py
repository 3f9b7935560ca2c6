"""The optimiser's passes over all tensors at once; kernels.c holds them, see kernels.py.

One call for all: a small encoder has a hundred tensors, most of them short, and a call for each
takes longer than its arithmetic. A gradient may be sparse: lines of an embedding, one for each word
that the batch has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tunewright.model.kernels import call_kernel, can_run

_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Update:
    """What one fp32 weight needs for an AdamW step. out: its bf16 copy in the model.

    gradient: bf16, times the scale of the step; dense, or coalesced lines of the first dimension,
    and then `places` (int32, one a line, -2 where no gradient ever was) goes from step to step.
    """

    master: Tensor
    first: Tensor
    second: Tensor
    gradient: Tensor
    out: Tensor
    rate: float
    decay: float
    step: int
    places: Tensor | None = None


def takes(gradient: Tensor) -> bool:
    """True where the kernels can update from this gradient."""
    return can_run(values_of(gradient))


def values_of(gradient: Tensor) -> Tensor:
    """The numbers that a gradient holds, without the zeros of one that is sparse."""
    return gradient.values() if gradient.is_sparse else gradient


def square_sum(gradients: Sequence[Tensor]) -> float:
    """Sum of squares over bf16 gradients in fp64, in an order that depends on their sizes alone."""
    values = [values_of(gradient) for gradient in gradients]
    sizes = np.array([value.numel() for value in values], np.int64)
    partial = np.empty(int((-(-sizes // _BLOCK)).sum()), np.float64)
    call_kernel("square_sums", len(values), _addresses(values), sizes, partial)
    return float(partial.sum())


def adamw(
    updates: Sequence[Update], *, scale: float, betas: tuple[float, float], epsilon: float
) -> None:
    """One AdamW step of every weight, from gradients times scale.

    A line (of the last dimension) without a gradient now or ever before is left as it is, not even
    decayed: the words of an embedding that the data lacks.
    """
    widths = [u.master.shape[-1] if u.master.ndim else 1 for u in updates]
    lines = [u.master.numel() // max(1, w) for u, w in zip(updates, widths, strict=True)]
    for update in updates:
        _place(update)
    values = [values_of(update.gradient) for update in updates]
    per_step = [
        (1 - u.rate * u.decay, u.rate / (1 - betas[0] ** u.step), (1 - betas[1] ** u.step) ** 0.5)
        for u in updates
    ]
    shrink, size, root = np.array(per_step, np.float32).T.copy()
    call_kernel(
        "adamw", len(updates), _addresses([u.master for u in updates]),
        _addresses([u.first for u in updates]), _addresses([u.second for u in updates]),
        _addresses(values), _addresses([u.out for u in updates]),
        _addresses([u.places for u in updates]), np.array(lines, np.int64),
        np.array(widths, np.int64), shrink, size, root, scale, *betas, epsilon,
    )  # fmt: skip
    for update in updates:
        if update.places is not None:
            update.places.index_fill_(0, update.gradient.indices()[0], -1)


def new_places(first: Tensor) -> Tensor:
    """`Update.places` for a weight with these first moments: what moved had gradients."""
    moved = first.flatten(1).any(1)
    return torch.where(moved, -1, -2).to(torch.int32)


def _place(update: Update) -> None:
    if update.places is not None:
        lines = update.gradient.indices()[0]
        update.places[lines] = torch.arange(lines.numel(), dtype=torch.int32)


def _addresses(tensors: Sequence[Tensor | None]) -> NDArray[np.uint64]:
    assert all(tensor is None or tensor.is_contiguous() for tensor in tensors)
    return np.array([0 if t is None else t.data_ptr() for t in tensors], np.uint64)
