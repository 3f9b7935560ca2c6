"""Objectives that learn from compared answers: DPO, IPO, ORPO, SimPO, KTO.

As everywhere a *sum* over rows is returned and the caller divides by their weight. Two means are
taken over the micro-batch, as their authors' code does, so they follow how it is cut: ORPO's mean
over tokens, KTO's estimate of the drift. Log-probabilities before tuning are computed once
(`add_references`), so no second model stays in memory.

Sources: DPO (Rafailov et al. 2023), IPO (Azar et al. 2023; per token, as its authors confirmed),
ORPO (Hong et al. 2024), SimPO (Meng et al. 2024), KTO (Ethayarajh et al. 2024). Equal to TRL's
trainers on the same batches: bench/preferences.py.

Shapes: B rows, 2B answers (first ones, then other ones), N target tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunewright.data.batch import Batch, batches_by_length, make_batch
from tunewright.data.render import Row
from tunewright.train.objectives import Objective, target_losses

SCORING_TOKENS = 8192


def dpo(
    model: nn.Module, batch: Batch, *, beta: float = 0.1, label_smoothing: float = 0.0
) -> Tensor:
    """Logistic loss of how much more the better answer gained than the worse one.

    label_smoothing: share of the labels believed to be wrong.
    """
    gains_2B = answer_logps(model, batch)[0] - _references(batch)
    better_B, worse_B = gains_2B.chunk(2)
    margin_B = beta * (better_B - worse_B)
    losses_B = -(1 - label_smoothing) * F.logsigmoid(margin_B)
    if label_smoothing:
        losses_B = losses_B - label_smoothing * F.logsigmoid(-margin_B)
    return (losses_B * batch.weight_B).sum()


def ipo(
    model: nn.Module, batch: Batch, *, beta: float = 0.1, label_smoothing: float = 0.0
) -> Tensor:
    """Squared distance of the gain per token from 1 / (2 beta): it cannot run away."""
    logps_2B, counts_2B = answer_logps(model, batch)
    better_B, worse_B = ((logps_2B - _references(batch)) / counts_2B.clamp(min=1)).chunk(2)
    losses_B = (better_B - worse_B - 1 / (2 * beta)) ** 2
    return (losses_B * batch.weight_B).sum()


def orpo(
    model: nn.Module, batch: Batch, *, beta: float = 0.1, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of the better answer, and beta times the logistic loss of the odds ratio.

    No reference is needed. The cross-entropy is the mean over the batch's tokens, prompts too.
    """
    losses_N, answer_N = _losses(model, batch)
    assert batch.target_weight_N is not None
    said_N = batch.target_weight_N > 0.75
    logps_2B, counts_2B = _per_answer(losses_N[said_N], answer_N[said_N], batch)
    better_B, worse_B = (logps_2B / counts_2B.clamp(min=1)).chunk(2)
    odds_B = (better_B - worse_B) - (_log1mexp(better_B) - _log1mexp(worse_B))
    first_N = answer_N < batch.weight_B.numel()
    nll = losses_N[first_N].sum() / first_N.sum().clamp(min=1)
    return ((nll - beta * F.logsigmoid(odds_B)) * batch.weight_B).sum()


def simpo(
    model: nn.Module, batch: Batch, *, beta: float = 2.0, gamma: float = 1.0,
    label_smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    """Logistic loss of the difference per token, which must exceed a margin of gamma / beta.

    No reference is needed.
    """
    logps_2B, counts_2B = answer_logps(model, batch)
    better_B, worse_B = (logps_2B / counts_2B.clamp(min=1)).chunk(2)
    margin_B = beta * (better_B - worse_B) - gamma
    losses_B = -(1 - label_smoothing) * F.logsigmoid(margin_B)
    if label_smoothing:
        losses_B = losses_B - label_smoothing * F.logsigmoid(-margin_B)
    return (losses_B * batch.weight_B).sum()


def kto(
    model: nn.Module, batch: Batch, *, beta: float = 0.1, desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0, label_smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    """Each answer by itself: liked ones shall gain, disliked ones lose, against the general drift.

    The drift is the mean gain of mismatched answers, no lower than 0, and carries no gradient.
    """
    assert batch.liked_B is not None
    own_B, drift_B = (answer_logps(model, batch)[0] - _references(batch)).chunk(2)
    drift = drift_B.detach().mean().clamp(min=0)
    liked_B = 1 - torch.sigmoid(beta * (own_B - drift))
    disliked_B = 1 - torch.sigmoid(beta * (drift - own_B))
    losses_B = torch.where(
        batch.liked_B, desirable_weight * liked_B, undesirable_weight * disliked_B
    )
    return (losses_B * batch.weight_B).sum()


def answer_logps(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """(log-probability, number of tokens) of each of the 2B answers."""
    losses_N, answer_N = _losses(model, batch)
    return _per_answer(losses_N, answer_N, batch)


def add_references(
    model: nn.Module,
    rows: Sequence[Row],
    pad_id: int,
    device: torch.device,
    advance: Callable[[float], None] = lambda share: None,
) -> list[Row]:
    """The rows with the log-probabilities that the model as it is gives to both answers."""
    training = model.training
    model.eval()
    done = list(rows)
    finished = 0
    try:
        for part in batches_by_length(rows, SCORING_TOKENS):
            batch = make_batch([rows[i] for i in part], pad_id=pad_id, device=device)
            with torch.no_grad():
                first, second = answer_logps(model, batch)[0].double().cpu().chunk(2)
            for place, a, b in zip(part, first.tolist(), second.tolist(), strict=True):
                done[place] = replace(rows[place], reference=(a, b))
            finished += part.size
            advance(finished / len(rows))
    finally:
        model.train(training)
    return done


def make_preference(name: str, options: dict[str, Any]) -> Objective:
    """The objective of that name with its options set; label smoothing stays the recipe's."""
    return partial(PREFERENCES[name], **options)


def _losses(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    assert batch.answer_N is not None
    return target_losses(model, batch), batch.answer_N


def _per_answer(losses_N: Tensor, answer_N: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    size = 2 * batch.weight_B.numel()
    logps_2B = losses_N.new_zeros(size).index_add(0, answer_N, -losses_N)
    counts_2B = torch.bincount(answer_N, minlength=size).to(losses_N.dtype)
    return logps_2B, counts_2B


def _references(batch: Batch) -> Tensor:
    assert batch.reference_2B is not None, "add_references comes first"
    return batch.reference_2B


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0, exact near both ends (Maechler 2012)."""
    x = x.clamp(max=-torch.finfo(x.dtype).tiny)
    return torch.where(x > -0.6931471805599453, (-x.expm1()).log(), (-x.exp()).log1p())


NEED_REFERENCE = frozenset({"dpo", "ipo", "kto"})
PREFERENCES: dict[str, Objective] = {
    "dpo": dpo,
    "ipo": ipo,
    "orpo": orpo,
    "simpo": simpo,
    "kto": kto,
}
