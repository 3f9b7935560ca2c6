"""What is minimised: each objective returns a *sum* of losses over the true targets of a batch.

The caller divides by the weight of all targets of the optimiser step, over every micro-batch, so
the result does not depend on how a batch was cut (the accumulation bug of many trainers).

Shapes: B rows, T tokens, D decoder tokens, H hidden, N target positions, K classes, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunewright.data.batch import IGNORED, Batch

Objective = Callable[..., Tensor]

CHUNK_TARGETS = 2048
"""Target positions whose logits exist at one time."""


def class_cross_entropy(model: nn.Module, batch: Batch, *, label_smoothing: float = 0.0) -> Tensor:
    """Sum of cross-entropies of one label per row."""
    logits_BK = _logits(model, batch).float()
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
    """Sum over rows of the mean binary cross-entropy over labels."""
    logits_BK = _logits(model, batch).float()
    target_BK = batch.target * (1.0 - label_smoothing) + 0.5 * label_smoothing
    losses_BK = F.binary_cross_entropy_with_logits(logits_BK, target_BK, reduction="none")
    # The sum over labels, not the mean: with many labels a mean leaves each a vanishing gradient.
    return (losses_BK.sum(dim=1) * batch.weight_B).sum()


def squared_error(model: nn.Module, batch: Batch, *, label_smoothing: float = 0.0) -> Tensor:
    """Sum of squared errors; the model predicts the standardised target."""
    values_B = _logits(model, batch).float().squeeze(-1)
    return ((values_B - batch.target) ** 2 * batch.weight_B).sum()


def tag_cross_entropy(model: nn.Module, batch: Batch, *, label_smoothing: float = 0.0) -> Tensor:
    """Sum of cross-entropies of one tag per token that carries one."""
    logits_BTK = _logits(model, batch).float()
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
    losses_N = target_losses(model, batch, label_smoothing=label_smoothing)
    assert batch.target_weight_N is not None
    return (losses_N * batch.target_weight_N).sum()


def target_losses(model: nn.Module, batch: Batch, *, label_smoothing: float = 0.0) -> Tensor:
    """(N,) cross-entropy of every target token, in the batch's own order."""
    hidden_NH, head = target_states(model, batch)
    losses = [
        F.cross_entropy(
            head(hidden_NH[start : start + CHUNK_TARGETS]).float(),
            batch.target[start : start + CHUNK_TARGETS],
            reduction="none",
            label_smoothing=label_smoothing,
        )
        for start in range(0, hidden_NH.shape[0], CHUNK_TARGETS)
    ]
    return torch.cat(losses) if losses else hidden_NH.new_zeros(0, dtype=torch.float32)


def target_states(
    model: nn.Module, batch: Batch
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """What predicts each target, and the function from there to logits.

    Where the output head is a plain linear layer on the backbone's last state, that is the state
    (N, H) and the head. Elsewhere (soft-capped or scaled logits, encoder-decoder models) it is the
    logits (N, V) themselves with the identity.
    """
    assert batch.target_index_N is not None
    inner = _inner_model(model)
    if batch.decoder_ids_BD is None and has_plain_head(model):
        hidden_BTH = _backbone(inner)(**_inputs(batch), use_cache=False)[0]
        return hidden_BTH.flatten(0, 1)[batch.target_index_N], inner.get_output_embeddings()
    logits = _logits(model, batch)
    return logits.flatten(0, 1)[batch.target_index_N], _identity


def has_plain_head(model: nn.Module) -> bool:
    """Whether head(backbone(x)) equals the model's own logits; measured once per model on two tokens."""
    inner = _inner_model(model)
    known = getattr(inner, "_tunewright_plain_head", None)
    if known is None:
        known = _measure_plain_head(inner)
        inner._tunewright_plain_head = known
    return bool(known)


def _measure_plain_head(inner: nn.Module) -> bool:
    head = getattr(inner, "get_output_embeddings", lambda: None)()
    if head is None or getattr(inner.config, "is_encoder_decoder", False):
        return False
    was_training = inner.training
    inner.eval()
    ids = torch.tensor([[1, 2]], device=next(inner.parameters()).device)
    try:
        with torch.no_grad():
            ours = head(_backbone(inner)(input_ids=ids, use_cache=False)[0])
            theirs = inner(input_ids=ids, use_cache=False).logits
        return bool(torch.equal(ours, theirs))
    except (TypeError, AttributeError, IndexError, RuntimeError):
        return False  # an unusual architecture: the model's own forward is always right
    finally:
        inner.train(was_training)


def _inner_model(model: nn.Module) -> nn.Module:
    """The transformers model inside a PEFT wrapper; its layers carry the adapters."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _backbone(inner: nn.Module) -> nn.Module:
    backbone = getattr(inner, inner.base_model_prefix)
    assert isinstance(backbone, nn.Module)
    return backbone


def _logits(model: nn.Module, batch: Batch) -> Tensor:
    logits = model(**_inputs(batch)).logits
    assert isinstance(logits, Tensor)
    return logits


def _inputs(batch: Batch) -> dict[str, Tensor]:
    """Keyword arguments of a transformers forward."""
    inputs: dict[str, Tensor] = {"input_ids": batch.ids_BT}
    if batch.mask_BT is not None:
        inputs["attention_mask"] = batch.mask_BT
    if batch.positions_BT is not None:
        inputs["position_ids"] = batch.positions_BT
    if batch.decoder_ids_BD is not None:
        inputs["decoder_input_ids"] = _shift_right(batch.decoder_ids_BD)
        if batch.decoder_mask_BD is not None:
            inputs["decoder_attention_mask"] = torch.cat(
                [torch.ones_like(batch.decoder_mask_BD[:, :1]), batch.decoder_mask_BD[:, :-1]], 1
            )
    return inputs


def _shift_right(ids_BD: Tensor) -> Tensor:
    # Every encoder-decoder model that we load starts decoding from token 0 (T5's pad); others are
    # refused at load time.
    return torch.cat([torch.zeros_like(ids_BD[:, :1]), ids_BD[:, :-1]], dim=1)


def _identity(x: Tensor) -> Tensor:
    return x


OBJECTIVES: dict[str, Objective] = {
    "classify": class_cross_entropy,
    "classify_multi": multi_label_cross_entropy,
    "regress": squared_error,
    "tag": tag_cross_entropy,
    "generate": token_cross_entropy,
    "chat": token_cross_entropy,
    "continue": token_cross_entropy,
}
