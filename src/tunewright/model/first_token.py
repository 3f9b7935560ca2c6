"""Attention where only the first token of each row asks: last layer of encoders that pool by it.

Nobody reads that layer's other outputs, so neither they nor their gradients are computed. Keys and
values are still those of every token.

Shapes: R rows, N tokens of all rows one after the other, n those of them that belong to the R rows,
A heads, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tunewright.model.kernels import Attention, dropout_mask


@dataclass(frozen=True, slots=True)
class Looks:
    """What the backward pass needs again. used: probabilities after dropout."""

    row_n: Tensor
    lengths_R: Tensor
    probability_nA: Tensor
    used_nA: Tensor
    kept_nA: Tensor | float


def attend_first(
    q_RAD: Tensor, k_NAD: Tensor, v_NAD: Tensor, how: Attention
) -> tuple[Tensor, Looks]:
    """(R, A, D) answers to the first tokens' queries; rows beyond the R first are not looked at."""
    rows = q_RAD.shape[0]
    lengths_R = how.starts_R1[: rows + 1].diff()
    row_n = torch.arange(rows, device=q_RAD.device).repeat_interleave(lengths_R)
    k_nAD, v_nAD = (x[: row_n.numel()].float() for x in (k_NAD, v_NAD))
    scores_nA = (q_RAD.float()[row_n] * k_nAD).sum(-1) * how.scale
    top_RA = torch.segment_reduce(scores_nA, "max", lengths=lengths_R)
    raised_nA = (scores_nA - top_RA[row_n]).exp()
    probability_nA = raised_nA / _sums(raised_nA, lengths_R)[row_n]
    kept_nA = dropout_mask(probability_nA, how.dropout, how.seed) if how.dropout else 1.0
    used_nA = probability_nA * kept_nA
    out_RAD = _sums(used_nA[..., None] * v_nAD, lengths_R)
    return out_RAD.to(q_RAD.dtype), Looks(row_n, lengths_R, probability_nA, used_nA, kept_nA)


def attend_first_backward(
    dout_RAD: Tensor, q_RAD: Tensor, k_NAD: Tensor, v_NAD: Tensor, looks: Looks, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v; those of tokens that were not looked at are 0."""
    count, row_n, lengths_R = looks.row_n.numel(), looks.row_n, looks.lengths_R
    k_nAD, v_nAD = (x[:count].float() for x in (k_NAD, v_NAD))
    dout_nAD = dout_RAD.float()[row_n]
    dprobability_nA = (dout_nAD * v_nAD).sum(-1) * looks.kept_nA
    mean_RA = _sums(looks.probability_nA * dprobability_nA, lengths_R)
    dscore_nA = looks.probability_nA * (dprobability_nA - mean_RA[row_n]) * scale
    dq_RAD = _sums(dscore_nA[..., None] * k_nAD, lengths_R)
    dk_NAD, dv_NAD = torch.zeros_like(k_NAD), torch.zeros_like(v_NAD)
    dk_NAD[:count] = dscore_nA[..., None] * q_RAD.float()[row_n]
    dv_NAD[:count] = looks.used_nA[..., None] * dout_nAD
    return dq_RAD.to(q_RAD.dtype), dk_NAD, dv_NAD


def _sums(x_n: Tensor, lengths_R: Tensor) -> Tensor:
    """Sum over each row's tokens, in their order whatever the number of threads."""
    flat = x_n.flatten(1)
    summed = torch.segment_reduce(flat, "sum", lengths=lengths_R)
    return summed.view(lengths_R.numel(), *x_n.shape[1:])
