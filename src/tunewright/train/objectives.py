"""What is minimised: each objective returns a *sum* of losses over the true targets of a batch.

The caller divides by the weight of all targets of the optimiser step, over every micro-batch, so
the result does not depend on how a batch was cut (the accumulation bug of many trainers).

Shapes: B rows, T tokens, D decoder tokens, H hidden, N target positions, K classes, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunewright.data.batch import IGNORED, Batch, model_inputs
from tunewright.data.render import Row
from tunewright.model.decoder import FastDecoder, fast_decoder
from tunewright.model.encoder import fast_encoder
from tunewright.model.generate import target_logits

Objective = Callable[..., Tensor]


def class_cross_entropy(
    model: nn.Module,
    batch: Batch,
    *,
    label_smoothing: float = 0.0,
    offset_K: Tensor | None = None,
) -> Tensor:
    """Sum of cross-entropies of one label per row.

    offset_K: added to the logits while training, log of how much more common each class is in
    training than it will be; the model then answers for what will be ("Long-tail learning via logit
    adjustment", Menon et al. 2021).
    """
    logits_BK = _wide(_logits(model, batch))
    if offset_K is not None:
        logits_BK = logits_BK + offset_K
    losses_B = F.cross_entropy(
        logits_BK,
        batch.target,
        reduction="none",
        label_smoothing=label_smoothing,
        ignore_index=IGNORED,
    )
    return (losses_B * batch.weight_B).sum()


def multi_label_cross_entropy(
    model: nn.Module, batch: Batch, *, label_smoothing: float = 0.0
) -> Tensor:
    """Sum over rows and labels of the binary cross-entropy."""
    logits_BK = _wide(_logits(model, batch))
    target_BK = batch.target * (1.0 - label_smoothing) + 0.5 * label_smoothing
    losses_BK = F.binary_cross_entropy_with_logits(logits_BK, target_BK, reduction="none")
    # The sum over labels, not the mean: with many labels a mean leaves each a vanishing gradient.
    return (losses_BK.sum(dim=1) * batch.weight_B).sum()


def squared_error(model: nn.Module, batch: Batch, *, label_smoothing: float = 0.0) -> Tensor:
    """Sum of squared errors; the model predicts the standardised target."""
    values_B = _wide(_logits(model, batch)).squeeze(-1)
    return ((values_B - batch.target) ** 2 * batch.weight_B).sum()


def tag_cross_entropy(model: nn.Module, batch: Batch, *, label_smoothing: float = 0.0) -> Tensor:
    """Sum of cross-entropies of one tag per token that carries one."""
    logits_BTK = _wide(_logits(model, batch))
    losses_BT = F.cross_entropy(
        logits_BTK.flatten(0, 1),
        batch.target.flatten(),
        reduction="none",
        label_smoothing=label_smoothing,
        ignore_index=IGNORED,
    ).view(batch.target.shape)
    return (losses_BT * batch.weight_B[:, None]).sum()


def token_cross_entropy(model: nn.Module, batch: Batch, *, label_smoothing: float = 0.0) -> Tensor:
    """Weighted sum of cross-entropies over target tokens; logits exist only at target positions."""
    assert batch.target_weight_N is not None
    decoder, hidden_NH, chosen_N = _fast_hidden(model, batch)
    if decoder is not None:
        return decoder.weighted_loss(
            hidden_NH, chosen_N, batch.target, batch.target_weight_N, label_smoothing
        )
    losses_N = target_losses(model, batch, label_smoothing=label_smoothing)
    return (losses_N * batch.target_weight_N).sum()


def with_penalty(objective: Objective, penalty: Callable[[], Tensor]) -> Objective:
    """The objective and a penalty on the weights, once per optimiser step however it is cut."""

    def penalised(model: nn.Module, batch: Batch, *, label_smoothing: float = 0.0) -> Tensor:
        loss = objective(model, batch, label_smoothing=label_smoothing)
        return loss + penalty() * _total_weight(batch)

    return penalised


def _total_weight(batch: Batch) -> Tensor:
    """What this batch adds to the denominator of the loss."""
    if batch.target_weight_N is not None:
        return batch.target_weight_N.sum()
    if batch.target.dtype == torch.int64 and batch.target.ndim == 2:
        return ((batch.target != IGNORED).sum(dim=1) * batch.weight_B).sum()
    return batch.weight_B.sum()


def target_losses(model: nn.Module, batch: Batch, *, label_smoothing: float = 0.0) -> Tensor:
    """(N,) cross-entropy of every target token, in the batch's own order."""
    assert batch.predicts_BT is not None
    decoder, hidden_NH, chosen_N = _fast_hidden(model, batch)
    if decoder is not None:
        return decoder.losses(hidden_NH, chosen_N, batch.target, label_smoothing)
    logits_NV = target_logits(model, model_inputs(batch), batch.predicts_BT)
    return F.cross_entropy(
        _wide(logits_NV), batch.target, reduction="none", label_smoothing=label_smoothing
    )


def student_logits(model: nn.Module, batch: Batch) -> Tensor:
    """(N, V) logits of every target token, in the batch's own order; differentiable."""
    assert batch.predicts_BT is not None
    decoder, hidden_NH, chosen_N = _fast_hidden(model, batch)
    if decoder is None:
        return target_logits(model, model_inputs(batch), batch.predicts_BT)
    return decoder.logits(hidden_NH, chosen_N)


def _fast_hidden(model: nn.Module, batch: Batch) -> tuple[FastDecoder | None, Tensor, Tensor]:
    """(decoder, hidden states, positions that predict); None and stand-ins where it cannot be."""
    decoder = fast_decoder(model) if batch.starts_R1 is not None else None
    if decoder is None:
        return None, batch.target, batch.target
    assert batch.positions_BT is not None and batch.starts_R1 is not None
    assert batch.predicts_BT is not None
    hidden_NH = decoder.hidden_states(batch.ids_BT[0], batch.positions_BT[0], batch.starts_R1)
    return decoder, hidden_NH, batch.predicts_BT[0].nonzero()[:, 0]


def packs_rows(model: nn.Module, row: Row, wish: bool) -> bool:
    """Whether rows like this one are trained packed: by wish, or where that is faster."""
    if row.is_seq2seq:
        return False
    if row.target_weights is not None:
        return wish or fast_decoder(model) is not None
    tags = isinstance(row.target, np.ndarray) and row.target.dtype == np.int32
    return not tags and fast_encoder(model) is not None


def _wide(logits: Tensor) -> Tensor:
    """In fp32 at least: a softmax over bf16 would lose its small terms."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _logits(model: nn.Module, batch: Batch) -> Tensor:
    if batch.starts_R1 is not None:
        encoder = fast_encoder(model)
        assert encoder is not None and batch.positions_BT is not None
        return encoder.logits(batch.ids_BT[0], batch.positions_BT[0], batch.starts_R1)
    logits = model(**model_inputs(batch)).logits
    assert isinstance(logits, Tensor)
    return logits


OBJECTIVES: dict[str, Objective] = {
    "classify": class_cross_entropy,
    "classify_multi": multi_label_cross_entropy,
    "regress": squared_error,
    "tag": tag_cross_entropy,
    "generate": token_cross_entropy,
    "chat": token_cross_entropy,
    "continue": token_cross_entropy,
}
