"""Decoder layers of Llama's shape with a forward and a backward pass written by hand.

Rows lie packed end to end, so no padding is computed; attention keeps them apart. Norms and the
SwiGLU product are computed again in the backward pass instead of being stored. The loss is taken
in chunks of target positions: the logits of a batch never exist.

Shapes as in kernels.py.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.model import kernels
from tunewright.model.fast import LowRank, as_low_rank

CHUNK_LOGITS = 12_000_000
"""Logits that exist at a time: 24 MB in bf16, which stays in the last-level cache of a server."""
# Layers whose forward pass is norm, attention, norm, SwiGLU, with nothing in between.
_LAYERS = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer")
_PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")


@dataclass(frozen=True, slots=True)
class Packed:
    """Where rows lie and how their heads turn: what every layer of a pass shares."""

    starts_R1: Tensor
    cos_NR: Tensor
    sin_NR: Tensor

    def attention(self, layer: Layer) -> kernels.Attention:
        """How a layer attends."""
        return kernels.Attention(self.starts_R1, layer.scale, causal=True)


@dataclass(slots=True)
class Layer:
    """One decoder layer's numbers."""

    q: LowRank
    k: LowRank
    v: LowRank
    o: LowRank
    gate: LowRank
    up: LowRank
    down: LowRank
    norm_1_H: Tensor
    norm_2_H: Tensor
    epsilon: float
    head_dim: int
    scale: float
    recompute: bool
    """Keep the layer's input alone and run the forward pass again for the backward one."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Trained parameters in the order of the gradients that `_LayerFunction` returns."""
        return [p for name in _PROJECTIONS for p in getattr(self, name).parameters]


@dataclass(slots=True)
class FastDecoder:
    """A decoder-only model, ready for `hidden_states` and the losses below."""

    embedding: nn.Module
    rotary: nn.Module
    layers: list[Layer]
    norm_H: Tensor
    epsilon: float
    head_VH: Tensor

    def hidden_states(self, ids_N: Tensor, positions_N: Tensor, starts_R1: Tensor) -> Tensor:
        """(N, H) before the last norm, with a graph to the adapters."""
        x_NH = self.embedding(ids_N)
        cosine, sine = self.rotary(torch.empty(0, dtype=torch.float32), positions_N[None])
        half = cosine.shape[-1] // 2
        packed = Packed(
            starts_R1.contiguous(),
            cosine[0, :, :half].float().contiguous(),
            sine[0, :, :half].float().contiguous(),
        )
        for layer in self.layers:
            x_NH = _LayerFunction.apply(x_NH, layer, packed, *layer.parameters)  # type: ignore[no-untyped-call]
        return torch.as_tensor(x_NH)

    def weighted_loss(
        self, hidden_NH: Tensor, chosen_T: Tensor, target_T: Tensor, weight_T: Tensor,
        label_smoothing: float,
    ) -> Tensor:  # fmt: skip
        """Sum over targets T of weight times cross-entropy; chosen_T are the positions before."""
        chosen_TH = hidden_NH.index_select(0, chosen_T)
        loss: Tensor = _WeightedLoss.apply(  # type: ignore[no-untyped-call]
            chosen_TH, self, target_T, weight_T, label_smoothing
        )
        return loss

    def logits(self, hidden_NH: Tensor, chosen_T: Tensor) -> Tensor:
        """(T, V) logits of chosen positions, through torch's own gradients."""
        chosen_TH = hidden_NH.index_select(0, chosen_T).float()
        scale_T1 = torch.rsqrt(chosen_TH.square().mean(1, keepdim=True) + self.epsilon)
        normed_TH = (chosen_TH * scale_T1).to(self.head_VH.dtype) * self.norm_H
        return normed_TH.to(self.head_VH.dtype) @ self.head_VH.t()

    def losses(
        self, hidden_NH: Tensor, chosen_T: Tensor, target_T: Tensor, label_smoothing: float
    ) -> Tensor:
        """(T,) cross-entropies, for objectives that weigh them afterwards; costs the head twice."""
        chosen_TH = hidden_NH.index_select(0, chosen_T)
        losses: Tensor = _Losses.apply(chosen_TH, self, target_T, label_smoothing)  # type: ignore[no-untyped-call]
        return losses


_KNOWN: weakref.WeakKeyDictionary[nn.Module, FastDecoder | None] = weakref.WeakKeyDictionary()


def fast_decoder(model: nn.Module) -> FastDecoder | None:
    """The model as a FastDecoder, or None where some part of it is not of the shape known here.

    Looked at once per model, when it is first trained.
    """
    if model not in _KNOWN:
        _KNOWN[model] = _read_decoder(model)
    return _KNOWN[model]


def forget_decoder(model: nn.Module) -> None:
    """Look again at next use: for after a model was changed, merged or moved."""
    _KNOWN.pop(model, None)


def _read_decoder(model: Any) -> FastDecoder | None:
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    inner, head = getattr(plain, "model", None), getattr(plain, "lm_head", None)
    found = getattr(inner, "layers", None)
    if not isinstance(found, nn.ModuleList) or type(head) is not nn.Linear:
        return None
    if hasattr(head.weight, "device_mesh"):  # sharded over ranks: torch's own code gathers it
        return None
    if inner is None or inner._forward_pre_hooks:  # learned vectors come before the input there
        return None
    if head.weight.requires_grad or head.bias is not None or head.weight.device.type != "cpu":
        return None
    embedding, norm, rotary = inner.embed_tokens, inner.norm, inner.rotary_emb
    if type(embedding) is not nn.Embedding or hasattr(embedding, "adds_noise"):
        return None
    if embedding.weight.requires_grad:
        return None
    if norm.weight.requires_grad or not hasattr(norm, "variance_epsilon"):
        return None
    layers = [_read_layer(module) for module in found]
    if any(layer is None for layer in layers):
        return None
    return FastDecoder(
        embedding,
        rotary,
        [layer for layer in layers if layer is not None],
        norm.weight.detach(),
        float(norm.variance_epsilon),
        head.weight.detach(),
    )


def _read_layer(module: Any) -> Layer | None:
    if type(module).__name__ not in _LAYERS or module.__module__.split(".")[0] != "transformers":
        return None
    attention, mlp = module.self_attn, module.mlp
    config = attention.config
    norms = (module.input_layernorm, module.post_attention_layernorm)
    windowed = getattr(attention, "sliding_window", None) or getattr(config, "sliding_window", None)
    used = getattr(config, "use_sliding_window", True)
    if (windowed and used) or config.hidden_act != "silu" or config.attention_dropout:
        return None
    plain = all(hasattr(norm, "variance_epsilon") for norm in norms)  # not wrapped by an adapter
    if not plain or any(norm.weight.requires_grad for norm in norms):
        return None
    parts = {
        name: as_low_rank(getattr(attention if name in "qkvo" else mlp, f"{name}_proj"))
        for name in _PROJECTIONS
    }
    if any(part is None for part in parts.values()):
        return None
    return Layer(
        **parts,  # type: ignore[arg-type]
        norm_1_H=norms[0].weight.detach(),
        norm_2_H=norms[1].weight.detach(),
        epsilon=float(norms[0].variance_epsilon),
        head_dim=int(attention.head_dim),
        scale=float(attention.scaling),
        recompute=bool(getattr(module, "gradient_checkpointing", False)),
    )


def _forward_layer(
    x_NH: Tensor, layer: Layer, packed: Packed
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """(output, what the backward pass needs besides x)."""
    normed, rstd_1 = kernels.rms_norm(x_NH, layer.norm_1_H, layer.epsilon)
    q, low_q = layer.q.forward(normed)
    k, low_k = layer.k.forward(normed)
    v, low_v = layer.v.forward(normed)
    q, k, v = (part.view(part.shape[0], -1, layer.head_dim) for part in (q, k, v))
    kernels.rotate(q, packed.cos_NR, packed.sin_NR)
    kernels.rotate(k, packed.cos_NR, packed.sin_NR)
    out, lse = kernels.attention(q, k, v, packed.attention(layer))
    added, low_o = layer.o.forward(out.flatten(1))
    mid_NH = added.add_(x_NH)
    normed, rstd_2 = kernels.rms_norm(mid_NH, layer.norm_2_H, layer.epsilon)
    gate, low_gate = layer.gate.forward(normed)
    up, low_up = layer.up.forward(normed)
    added, low_down = layer.down.forward(kernels.silu_mul(gate, up))
    kept = (
        rstd_1, q, k, v, out, lse, mid_NH, rstd_2, gate, up,
        low_q, low_k, low_v, low_o, low_gate, low_up, low_down,
    )  # fmt: skip
    return added.add_(mid_NH), kept


class _LayerFunction(torch.autograd.Function):
    """One decoder layer: x + attention(norm x), then the same with the SwiGLU."""

    @staticmethod
    def forward(ctx: Any, x_NH: Tensor, layer: Layer, packed: Packed, *trained: Tensor) -> Tensor:
        out_NH, kept = _forward_layer(x_NH, layer, packed)
        ctx.layer, ctx.packed = layer, packed
        ctx.save_for_backward(x_NH, *(() if layer.recompute else kept))
        return out_NH

    @staticmethod
    def backward(ctx: Any, dout_NH: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        layer: Layer = ctx.layer
        packed: Packed = ctx.packed
        x_NH, *kept = ctx.saved_tensors
        if layer.recompute:
            _, kept = _forward_layer(x_NH, layer, packed)
        rstd_1, q, k, v, out, lse, mid_NH, rstd_2, gate, up = kept[:10]
        low_q, low_k, low_v, low_o, low_gate, low_up, low_down = kept[10:]
        dmid_NH, mlp = _backward_mlp(
            layer, dout_NH.contiguous(), mid_NH, rstd_2, gate, up, (low_gate, low_up, low_down)
        )
        down, flat = layer.o.backward_low(dmid_NH), out.flatten(1)
        output = layer.o.backward_weights(dmid_NH, flat, low_o, down)
        dattn = layer.o.backward_input(dmid_NH, down).view_as(out)
        dq, dk, dv = kernels.attention_backward(dattn, q, k, v, out, lse, packed.attention(layer))
        kernels.rotate(dq, packed.cos_NR, packed.sin_NR, back=True)
        kernels.rotate(dk, packed.cos_NR, packed.sin_NR, back=True)
        normed, _ = kernels.rms_norm(x_NH, layer.norm_1_H, layer.epsilon)
        dnormed, first = _backward_together(
            (layer.q, layer.k, layer.v), (dq.flatten(1), dk.flatten(1), dv.flatten(1)),
            normed, (low_q, low_k, low_v), ctx.needs_input_grad[0],
        )  # fmt: skip
        dx_NH = None
        if dnormed is not None:
            dx_NH = kernels.rms_norm_backward(dnormed, x_NH, layer.norm_1_H, rstd_1, dmid_NH)
        return dx_NH, None, None, *first, *output, *mlp


def _backward_mlp(
    layer: Layer, dout_NH: Tensor, mid_NH: Tensor, rstd_N: Tensor, gate: Tensor, up: Tensor,
    lows: tuple[Tensor | None, Tensor | None, Tensor | None],
) -> tuple[Tensor, tuple[Tensor, ...]]:  # fmt: skip
    """(gradient of the layer's middle, gradients of gate, up and down). Overwrites gate and up."""
    low_gate, low_up, low_down = lows
    down = layer.down.backward_low(dout_NH)
    dinner = layer.down.backward_input(dout_NH, down)
    dgate, dup, inner = kernels.silu_mul_backward(dinner, gate, up)
    last = layer.down.backward_weights(dout_NH, inner, low_down, down)
    normed, _ = kernels.rms_norm(mid_NH, layer.norm_2_H, layer.epsilon)
    dnormed, first = _backward_together(
        (layer.gate, layer.up), (dgate, dup), normed, (low_gate, low_up), True
    )
    assert dnormed is not None
    dmid = kernels.rms_norm_backward(dnormed, mid_NH, layer.norm_2_H, rstd_N, dout_NH)
    return dmid, (*first, *last)


def _backward_together(
    layers: tuple[LowRank, ...], grads: tuple[Tensor, ...], x: Tensor,
    lows: tuple[Tensor | None, ...], wants_input: bool,
) -> tuple[Tensor | None, tuple[Tensor, ...]]:  # fmt: skip
    """Layers that read the same input: (its gradient if wanted, gradients of their parameters)."""
    dx: Tensor | None = None
    trained: list[Tensor] = []
    for layer, grad, low in zip(layers, grads, lows, strict=True):
        down = layer.backward_low(grad)
        trained += layer.backward_weights(grad, x, low, down)
        if wants_input:
            dx = layer.backward_input(grad, down, dx)
    return dx, tuple(trained)


def _chunks(decoder: FastDecoder, count: int) -> list[slice]:
    rows = max(16, CHUNK_LOGITS // decoder.head_VH.shape[0])
    return [slice(i, min(i + rows, count)) for i in range(0, count, rows)]


class _WeightedLoss(torch.autograd.Function):
    """Norm, head and cross-entropy; the gradient is taken in the forward pass, chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any, hidden_TH: Tensor, decoder: FastDecoder, target_T: Tensor, weight_T: Tensor,
        label_smoothing: float,
    ) -> Tensor:  # fmt: skip
        normed, rstd = kernels.rms_norm(hidden_TH, decoder.norm_H, decoder.epsilon)
        total = torch.zeros((), dtype=torch.float64)
        for part in _chunks(decoder, target_T.numel()):
            losses, dlogits = kernels.cross_entropy_and_gradient(
                normed[part] @ decoder.head_VH.t(), target_T[part], weight_T[part], label_smoothing
            )
            total += (losses.double() * weight_T[part]).sum()
            torch.mm(dlogits, decoder.head_VH, out=normed[part])
        ctx.decoder = decoder
        ctx.save_for_backward(hidden_TH, rstd, normed)
        return total.float()

    @staticmethod
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, rstd, dnormed = ctx.saved_tensors
        if dloss != 1.0:
            dnormed = dnormed * dloss
        return _backward_norm(ctx.decoder, dnormed, hidden, rstd), None, None, None, None


class _Losses(torch.autograd.Function):
    """As _WeightedLoss, for weights that are only known in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, hidden_TH: Tensor, decoder: FastDecoder, target_T: Tensor, label_smoothing: float
    ) -> Tensor:
        normed, rstd = kernels.rms_norm(hidden_TH, decoder.norm_H, decoder.epsilon)
        nothing = torch.zeros(target_T.shape, dtype=torch.float32)
        losses = [
            kernels.cross_entropy_and_gradient(
                normed[part] @ decoder.head_VH.t(), target_T[part], nothing[part], label_smoothing
            )[0]
            for part in _chunks(decoder, target_T.numel())
        ]
        ctx.decoder, ctx.label_smoothing = decoder, label_smoothing
        ctx.save_for_backward(hidden_TH, rstd, normed, target_T)
        return torch.cat([nothing[:0], *losses])

    @staticmethod
    def backward(ctx: Any, dlosses_T: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, rstd, normed, target_T = ctx.saved_tensors
        decoder: FastDecoder = ctx.decoder
        dnormed, weight_T = torch.empty_like(normed), dlosses_T.float().contiguous()
        for part in _chunks(decoder, target_T.numel()):
            _, dlogits = kernels.cross_entropy_and_gradient(
                normed[part] @ decoder.head_VH.t(), target_T[part], weight_T[part],
                ctx.label_smoothing,
            )  # fmt: skip
            torch.mm(dlogits, decoder.head_VH, out=dnormed[part])
        return _backward_norm(decoder, dnormed, hidden, rstd), None, None, None


def _backward_norm(decoder: FastDecoder, dnormed: Tensor, hidden: Tensor, rstd: Tensor) -> Tensor:
    return kernels.rms_norm_backward(
        dnormed.clone(), hidden, decoder.norm_H, rstd, torch.zeros_like(hidden)
    )
