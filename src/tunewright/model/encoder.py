"""Encoders of BERT's shape, all of whose weights learn, with passes written by hand.

Rows lie packed end to end: no padding, no mask. Dropout's random numbers come from a counter and
are made again in the backward pass instead of being stored; biases and norms get their gradients
in the pass that reads those activations anyway.

Shapes as in kernels.py; M tokens, K inputs and N outputs of a dense layer.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunewright.model import kernels
from tunewright.model.first_token import attend_first, attend_first_backward

_PARTS = ("query", "key", "value", "attended", "norm_1", "inner", "outer", "norm_2")


@dataclass(slots=True)
class Layer:
    """One encoder layer's modules: dense ones and norms, all trained."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attended: nn.Linear
    norm_1: nn.LayerNorm
    inner: nn.Linear
    outer: nn.Linear
    norm_2: nn.LayerNorm
    heads: int
    scale: float
    dropout: float
    attention_dropout: float

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Weight and bias of each part, in the order of the gradients of `_LayerFunction`."""
        parts = [getattr(self, name) for name in _PARTS]
        return [p for part in parts for p in (part.weight, part.bias)]


@dataclass(slots=True)
class FastEncoder:
    """A BERT that classifies rows by their first token."""

    plain: Any
    layers: list[Layer]

    def logits(self, ids_N: Tensor, positions_N: Tensor, starts_R1: Tensor) -> Tensor:
        """(R, K) logits of packed rows."""
        starts_R1 = starts_R1.contiguous()
        firsts_R = starts_R1[:-1]
        ids_N, positions_N, starts_R1 = kernels.filled_up(ids_N, positions_N, starts_R1)
        embeddings = self.plain.bert.embeddings
        training = self.plain.training
        types = embeddings.token_type_embeddings.weight[:1]
        places_NH = embeddings.position_embeddings(positions_N) + types
        norm = embeddings.LayerNorm
        x_NH = _AddNorm.apply(  # type: ignore[no-untyped-call]
            _embed(embeddings.word_embeddings, ids_N) + places_NH, norm.weight, norm.bias, norm.eps,
            embeddings.dropout.p if training else 0.0, _new_seed(training),
        )  # fmt: skip
        for layer in self.layers[:-1]:
            how = _How(starts_R1, training, _new_seed(training))
            x_NH = _LayerFunction.apply(x_NH, layer, how, *layer.parameters)  # type: ignore[no-untyped-call]
        last, how = self.layers[-1], _How(starts_R1, training, _new_seed(training))
        first_RH = _LastLayerFunction.apply(x_NH, firsts_R, last, how, *last.parameters)  # type: ignore[no-untyped-call]
        pooler = self.plain.bert.pooler
        pooled_RH = pooler.activation(pooler.dense(first_RH))
        return torch.as_tensor(self.plain.classifier(self.plain.dropout(pooled_RH)))


@dataclass(frozen=True, slots=True)
class _How:
    """What a pass through a layer depends on beside its weights."""

    starts_R1: Tensor
    training: bool
    seed: int

    def dropout(self, layer: Layer) -> float:
        return layer.dropout if self.training else 0.0

    def attention(self, layer: Layer) -> kernels.Attention:
        share = layer.attention_dropout if self.training else 0.0
        return kernels.Attention(self.starts_R1, layer.scale, False, share, self.seed)


def _new_seed(training: bool) -> int:
    """From torch's own stream, which every step seeds."""
    return int(torch.randint(1 << 31, ())) if training else 0


_KNOWN: weakref.WeakKeyDictionary[nn.Module, FastEncoder | None] = weakref.WeakKeyDictionary()


def fast_encoder(model: nn.Module) -> FastEncoder | None:
    """The model as a FastEncoder, or None where some part of it is not of the shape known here.

    Only where the kernels run: plain torch would be no faster than the model's own code.
    """
    if model not in _KNOWN:
        _KNOWN[model] = _read_encoder(model)
    found = _KNOWN[model]
    return found if found is not None and kernels.can_run(next(model.parameters())) else None


def forget_encoder(model: nn.Module) -> None:
    """Look again at next use: for after a model was changed."""
    _KNOWN.pop(model, None)


def _read_encoder(model: Any) -> FastEncoder | None:
    config = getattr(model, "config", None)
    known = type(model).__name__ == "BertForSequenceClassification"
    if not known or config is None or config.is_decoder or config.hidden_act != "gelu":
        return None
    parameters = list(model.parameters())
    if any(not p.requires_grad or hasattr(p, "device_mesh") for p in parameters):
        return None  # frozen in part, or sharded over ranks: torch's own code gathers it
    if getattr(config, "position_embedding_type", "absolute") != "absolute":
        return None
    if hasattr(model.get_input_embeddings(), "adds_noise"):  # made for rows, not packed ones
        return None
    layers = []
    for module in model.bert.encoder.layer:
        attention, output = module.attention, module.output
        if module.add_cross_attention or getattr(module, "gradient_checkpointing", False):
            return None
        layers.append(
            Layer(
                attention.self.query,
                attention.self.key,
                attention.self.value,
                attention.output.dense,
                attention.output.LayerNorm,
                module.intermediate.dense,
                output.dense,
                output.LayerNorm,
                heads=attention.self.num_attention_heads,
                scale=float(attention.self.scaling),
                dropout=float(output.dropout.p),
                attention_dropout=float(attention.self.dropout.p),
            )
        )
    plain = all(
        type(getattr(layer, name)) is (nn.LayerNorm if "norm" in name else nn.Linear)
        and getattr(layer, name).bias is not None
        for layer in layers
        for name in _PARTS
    )
    return FastEncoder(model, layers) if plain else None


def _embed(embedding: nn.Embedding, ids_N: Tensor) -> Tensor:
    """Embeddings whose gradient is sparse where it is packed in bf16 for the optimiser's kernel."""
    weight, padding = embedding.weight, embedding.padding_idx
    # torch leaves out the gradient of the padding word.
    if not kernels.can_run(weight) or (padding is not None and bool((ids_N == padding).any())):
        return torch.as_tensor(embedding(ids_N))
    return torch.as_tensor(_Embed.apply(weight, ids_N))  # type: ignore[no-untyped-call]


class _Embed(torch.autograd.Function):
    """Lines of a table. The gradient holds those lines alone, each summed up in fp32.

    A dense one is written and read three times in a step; in a small encoder with a vocabulary of
    30,000 that takes as long as the layers' elementwise passes.
    """

    @staticmethod
    def forward(ctx: Any, weight_VH: Tensor, ids_N: Tensor) -> Tensor:
        ctx.ids_N, ctx.shape = ids_N, weight_VH.shape
        return weight_VH.index_select(0, ids_N)

    @staticmethod
    def backward(ctx: Any, dx_NH: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        words_U, places_N = ctx.ids_N.unique(return_inverse=True)
        sums_UH = torch.zeros(words_U.numel(), dx_NH.shape[1]).index_add_(
            0, places_N, dx_NH.float()
        )
        gradient = torch.sparse_coo_tensor(
            words_U[None],
            sums_UH.to(dx_NH.dtype),
            ctx.shape,
            is_coalesced=True,
            check_invariants=False,
        )
        return gradient, None


class _AddNorm(torch.autograd.Function):
    """LayerNorm, then dropout, as BERT's embeddings end."""

    @staticmethod
    def forward(
        ctx: Any,
        x_NH: Tensor,
        weight: Tensor,
        bias: Tensor,
        epsilon: float,
        share: float,
        seed: int,
    ) -> Tensor:
        y_NH, total, mean, rstd = kernels.dropout_add_norm(
            x_NH, None, weight, bias, epsilon, 0.0, 0
        )
        ctx.share, ctx.seed = share, seed
        ctx.save_for_backward(total, weight, mean, rstd)
        return kernels.dropout_(y_NH, share, seed)

    @staticmethod
    def backward(ctx: Any, dy_NH: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        total, weight, mean, rstd = ctx.saved_tensors
        dy_NH = kernels.dropout_(dy_NH.contiguous(), ctx.share, ctx.seed)
        dx, _, sums = kernels.dropout_add_norm_backward(dy_NH, total, weight, mean, rstd, 0.0, 0)
        return dx, sums[0].to(weight.dtype), sums[1].to(weight.dtype), None, None, None


class _LayerFunction(torch.autograd.Function):
    """One encoder layer; its norms come after the sums, as in BERT."""

    @staticmethod
    def forward(ctx: Any, x_NH: Tensor, layer: Layer, how: _How, *trained: Tensor) -> Tensor:
        q, k, v = (
            F.linear(x_NH, part.weight, part.bias).view(x_NH.shape[0], layer.heads, -1)
            for part in (layer.query, layer.key, layer.value)
        )
        out, lse = kernels.attention(q, k, v, how.attention(layer))
        y_NH, kept = _after_attention(out.flatten(1), x_NH, layer, how)
        ctx.layer, ctx.how = layer, how
        ctx.save_for_backward(x_NH, q, k, v, out, lse, *kept)
        return y_NH

    @staticmethod
    def backward(ctx: Any, dy_NH: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        layer: Layer = ctx.layer
        how: _How = ctx.how
        x_NH, q, k, v, out, lse, *kept = ctx.saved_tensors
        dx, dout, after = _after_attention_backward(dy_NH, out.flatten(1), kept, layer, how)
        grads = kernels.attention_backward(
            dout.view_as(out), q, k, v, out, lse, how.attention(layer)
        )
        trained: list[Tensor] = []
        for part, grad in zip((layer.query, layer.key, layer.value), grads, strict=True):
            dx = dx.addmm_(grad.flatten(1), part.weight)
            trained += _dense_gradients(grad.flatten(1), x_NH)
        return dx, None, None, *trained, *after


class _LastLayerFunction(torch.autograd.Function):
    """The last layer, of which only the first token of each row is read: (N, H) to (R, H)."""

    @staticmethod
    def forward(
        ctx: Any, x_NH: Tensor, firsts_R: Tensor, layer: Layer, how: _How, *trained: Tensor
    ) -> Tensor:
        x_RH = x_NH.index_select(0, firsts_R)
        q, k, v = (
            F.linear(x, part.weight, part.bias).view(x.shape[0], layer.heads, -1)
            for x, part in ((x_RH, layer.query), (x_NH, layer.key), (x_NH, layer.value))
        )
        out, ctx.looks = attend_first(q, k, v, how.attention(layer))
        y_RH, kept = _after_attention(out.flatten(1), x_RH, layer, how)
        ctx.layer, ctx.how = layer, how
        ctx.save_for_backward(x_NH, firsts_R, x_RH, q, k, v, out, *kept)
        return y_RH

    @staticmethod
    def backward(ctx: Any, dy_RH: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        layer: Layer = ctx.layer
        x_NH, firsts_R, x_RH, q, k, v, out, *kept = ctx.saved_tensors
        dx_RH, dout, after = _after_attention_backward(dy_RH, out.flatten(1), kept, layer, ctx.how)
        dq, dk, dv = (
            grad.flatten(1)
            for grad in attend_first_backward(dout.view_as(out), q, k, v, ctx.looks, layer.scale)
        )
        dx_NH = (dk @ layer.key.weight).addmm_(dv, layer.value.weight)
        dx_NH.index_add_(0, firsts_R, dx_RH.addmm_(dq, layer.query.weight))
        trained = [
            *_dense_gradients(dq, x_RH), *_dense_gradients(dk, x_NH), *_dense_gradients(dv, x_NH)
        ]  # fmt: skip
        return dx_NH, None, None, None, *trained, *after


def _after_attention(
    out_NH: Tensor, x_NH: Tensor, layer: Layer, how: _How
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(a layer's output from what its heads found, what the backward pass needs)."""
    added = F.linear(out_NH, layer.attended.weight, layer.attended.bias)
    share, norm = how.dropout(layer), layer.norm_1
    mid_NH, sum_1, mean_1, rstd_1 = kernels.dropout_add_norm(
        added, x_NH, norm.weight, norm.bias, norm.eps, share, how.seed + 1
    )
    before = F.linear(mid_NH, layer.inner.weight, layer.inner.bias)
    added = F.linear(kernels.gelu(before), layer.outer.weight, layer.outer.bias)
    norm = layer.norm_2
    y_NH, sum_2, mean_2, rstd_2 = kernels.dropout_add_norm(
        added, mid_NH, norm.weight, norm.bias, norm.eps, share, how.seed + 2
    )
    return y_NH, (sum_1, mean_1, rstd_1, mid_NH, before, sum_2, mean_2, rstd_2)


def _after_attention_backward(
    dy_NH: Tensor, out_NH: Tensor, kept: Sequence[Tensor], layer: Layer, how: _How
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """(gradient of x past the heads, of what they found, of the weights behind them)."""
    sum_1, mean_1, rstd_1, mid_NH, before, sum_2, mean_2, rstd_2 = kept
    share, dtype = how.dropout(layer), mid_NH.dtype
    # The second half: norm, outer, GELU, inner.
    dmid, dadded, sums = kernels.dropout_add_norm_backward(
        dy_NH.contiguous(), sum_2, layer.norm_2.weight, mean_2, rstd_2, share, how.seed + 2
    )
    norm_2 = (sums[0].to(dtype), sums[1].to(dtype))
    dbefore, hidden, inner_bias = kernels.gelu_backward(dadded @ layer.outer.weight, before)
    outer = (dadded.t() @ hidden, sums[2].to(dtype))
    inner = (dbefore.t() @ mid_NH, inner_bias.to(dtype))
    dmid = dmid.addmm_(dbefore, layer.inner.weight)
    # The first half: norm, attended.
    dx, dadded, sums = kernels.dropout_add_norm_backward(
        dmid, sum_1, layer.norm_1.weight, mean_1, rstd_1, share, how.seed + 1
    )
    norm_1 = (sums[0].to(dtype), sums[1].to(dtype))
    attended = (dadded.t() @ out_NH, sums[2].to(dtype))
    dout = dadded @ layer.attended.weight
    if dadded is dx:  # without dropout both are one tensor, and dx is about to change
        dx = dx.clone()
    return dx, dout, [*attended, *norm_1, *inner, *outer, *norm_2]


def _dense_gradients(dy: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Of weight and bias."""
    return dy.t() @ x, kernels.column_sums(dy).to(x.dtype)
