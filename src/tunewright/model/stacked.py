"""The forward pass of the Llama family by hand, over rows that come and go.

transformers' modules do right by every architecture and spend, on small models, most of the time
in Python. Here the projections that read one input are one product, weights lie in the order that
the processor's kernels like, the cache is one tensor per layer in which every row has a slot, and
prompts run through the linear layers without padding. Llama, Mistral, Qwen 2 and 3, Gemma 1 to 3,
Phi-3 and SmolLM3 are read; `read_stack` says None for whatever it does not know, and `Engine`
compares its numbers with those of the modules before it is used.

Shapes: N tokens, B rows, S slots, H query heads, J key heads, G = H / J, D head size, C capacity,
T positions attended to, P positions of a shared prefix, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tunewright.model.load import Base
from tunewright.model.low_rank import Mixer, Route, peel

FAMILIES = frozenset(
    {"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "smollm3"}
)
_FIXED_ROPES = ("default", "linear", "llama3", "yarn")
Norm = Callable[[Tensor], Tensor]


class Product:
    """Linear layers that read one input, as one product; their outputs stand side by side.

    fold: add the layers' own adapters to the weights; else they are left to `own`. packed: copy
    the weights into one, in the layout of the fastest kernel; else the model's own are used.
    """

    def __init__(
        self, layers: Sequence[tuple[str, nn.Module]], mixer: Mixer, *, packed: bool, fold: bool
    ) -> None:
        self.mixer = mixer
        self.own: dict[str, tuple[Tensor, Tensor]] = {}
        weights, biases = [], []
        for path, module in layers:
            plain, addition = peel(module) or (module, None)
            assert isinstance(plain, nn.Linear)
            weight = plain.weight.detach()
            if addition is not None and fold:
                weight = torch.addmm(weight, addition[1].to(weight), addition[0].to(weight))
            elif addition is not None:
                self.own[path] = addition
            weights.append(weight)
            biases.append(None if plain.bias is None else plain.bias.detach())
        self.parts = list(zip(weights, biases, strict=True))
        self.run = _joined(weights, biases) if packed else self._one_by_one

    def __call__(self, x_N: Tensor, route: Route | None) -> Tensor:
        """All outputs for N tokens, with what each one's adapter adds."""
        out: Tensor = self.run(x_N)
        return out if route is None else self.mixer.add_to(out, x_N, route)

    def _one_by_one(self, x_N: Tensor) -> Tensor:
        parts = [F.linear(x_N, weight, bias) for weight, bias in self.parts]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _joined(
    weights: Sequence[Tensor], biases: Sequence[Tensor | None]
) -> Callable[[Tensor], Tensor]:
    weight = torch.cat(list(weights)) if len(weights) > 1 else weights[0]
    bias = None
    if any(item is not None for item in biases):
        zeros = [
            w.new_zeros(len(w)) if b is None else b for w, b in zip(weights, biases, strict=True)
        ]
        bias = torch.cat(zeros)
    return fast_linear(weight, bias)


def fast_linear(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """x -> x W^T + b, on processors with the weight laid out anew for oneDNN's kernels."""
    reorder = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None)
    if weight.device.type == "cpu" and reorder is not None:
        try:
            blocked = reorder(weight.contiguous(), 32)
            run = torch.ops.mkldnn._linear_pointwise
            return lambda x: run(x, blocked, bias, "none", [], "")  # type: ignore[no-any-return]
        except (RuntimeError, NotImplementedError):  # no such kernels for this processor or type
            pass
    return partial(F.linear, weight=weight, bias=bias)


@dataclass(slots=True)
class Layer:
    """One block, as arithmetic."""

    qkv: Product
    out: Product
    up: Product
    down: Product
    before_attention: Norm
    before_mlp: Norm
    after_attention: Norm | None
    after_mlp: Norm | None
    q_norm: Norm | None
    k_norm: Norm | None
    act: Callable[[Tensor], Tensor]
    scaling: float
    softcap: float | None
    window: int | None
    rope: str | None


@dataclass(slots=True)
class Stack:
    """A whole decoder. ropes: kind of layer to a function from positions to (cos, sin)."""

    layers: list[Layer]
    embed: Callable[[Tensor], Tensor]
    final_norm: Norm
    head: Callable[[Tensor], Tensor]
    ropes: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]]
    num_heads: int
    num_key_heads: int
    head_size: int
    dtype: torch.dtype
    device: torch.device
    mixers: list[Mixer]
    own: dict[str, tuple[Tensor, Tensor]]


def read_stack(base: Base, adapters: Any, *, packed: bool) -> Stack | None:
    """The decoder of this base, or None where its architecture is not one of ours.

    adapters: LowRank by name, read at every step. packed: take a copy of the weights for speed.
    """
    model = base.plain
    config: Any = getattr(model, "config", None)
    if getattr(config, "model_type", None) not in FAMILIES or not _is_plain(model):
        return None
    body = model.model
    if body._forward_pre_hooks:  # learned vectors come before the input there
        return None
    fold = packed and base.dtype == torch.float32
    names = {module: name for name, module in model.named_modules()}
    mixers: list[Mixer] = []
    products: list[Product] = []

    def product(*modules: nn.Module) -> Product:
        layers = [(names[module], module) for module in modules]
        sizes = [_width(module) for module in modules]
        mixer = Mixer([path for path, _ in layers], sizes, adapters)
        mixers.append(mixer)
        products.append(Product(layers, mixer, packed=packed, fold=fold))
        return products[-1]

    layers = [_read_layer(item, config, product) for item in body.layers]
    return Stack(
        layers=layers,
        embed=body.embed_tokens,
        final_norm=_norm(body.norm, config),
        head=_head(model, config, packed),
        ropes={kind: _rope(body.rotary_emb, kind, base.dtype) for kind in _rope_kinds(layers)},
        num_heads=int(config.num_attention_heads),
        num_key_heads=int(config.num_key_value_heads),
        head_size=int(body.layers[0].self_attn.head_dim),
        dtype=base.dtype,
        device=base.device,
        mixers=mixers,
        own={path: part for item in products for path, part in item.own.items()},
    )


def _width(module: nn.Module) -> int:
    plain = (peel(module) or (module, None))[0]
    assert isinstance(plain, nn.Linear)
    return plain.out_features


def _is_plain(model: Any) -> bool:
    """Every linear layer is an nn.Linear, perhaps with LoRA; positions turn at fixed speeds."""
    for module in model.model.layers.modules():
        if hasattr(module, "base_layer"):
            peeled = peel(module)
            if peeled is None or type(peeled[0]) is not nn.Linear:
                return False
        elif "Linear" in type(module).__name__ and type(module) is not nn.Linear:
            return False
    kinds = getattr(model.model.rotary_emb, "rope_type", "default")
    return all(
        kind in _FIXED_ROPES for kind in (kinds.values() if isinstance(kinds, dict) else (kinds,))
    )


def _read_layer(item: Any, config: Any, product: Callable[..., Product]) -> Layer:
    attention, mlp = item.self_attn, item.mlp
    fused = hasattr(attention, "qkv_proj")
    qkv = (attention.qkv_proj,) if fused else (attention.q_proj, attention.k_proj, attention.v_proj)
    up = (mlp.gate_up_proj,) if fused else (mlp.gate_proj, mlp.up_proj)
    sandwiched = hasattr(item, "pre_feedforward_layernorm")
    kind = getattr(attention, "layer_type", None) or getattr(item, "attention_type", None)
    types = getattr(config, "layer_types", None)
    kind = kind or (types[attention.layer_idx] if types else None)
    window = getattr(attention, "sliding_window", None)
    if not hasattr(attention, "sliding_window") and kind in (None, "sliding_attention"):
        window = getattr(config, "sliding_window", None)
    return Layer(
        qkv=product(*qkv),
        out=product(attention.o_proj),
        up=product(*up),
        down=product(mlp.down_proj),
        before_attention=_norm(item.input_layernorm, config),
        before_mlp=_norm(
            item.pre_feedforward_layernorm if sandwiched else item.post_attention_layernorm, config
        ),
        after_attention=_norm(item.post_attention_layernorm, config) if sandwiched else None,
        after_mlp=_norm(item.post_feedforward_layernorm, config) if sandwiched else None,
        q_norm=_norm(attention.q_norm, config) if hasattr(attention, "q_norm") else None,
        k_norm=_norm(attention.k_norm, config) if hasattr(attention, "k_norm") else None,
        act=mlp.activation_fn if hasattr(mlp, "activation_fn") else mlp.act_fn,
        scaling=float(attention.scaling),
        softcap=getattr(attention, "attn_logit_softcapping", None),
        window=None if window is None else int(window),
        rope=(kind or "") if getattr(attention, "use_rope", True) else None,
    )


def _norm(module: Any, config: Any) -> Norm:
    """Root mean square normalisation; Gemma's weights are kept less one."""
    weight = module.weight.detach()
    if config.model_type.startswith("gemma"):
        weight = weight + 1.0
    eps = float(module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps)
    return partial(F.rms_norm, normalized_shape=weight.shape, weight=weight, eps=eps)


def _head(model: Any, config: Any, packed: bool) -> Callable[[Tensor], Tensor]:
    head, cap = model.get_output_embeddings(), getattr(config, "final_logit_softcapping", None)
    run: Callable[[Tensor], Tensor] = head
    if packed and type(head) is nn.Linear:
        run = fast_linear(head.weight.detach(), None if head.bias is None else head.bias.detach())
    return run if cap is None else lambda x: torch.tanh(run(x) / cap) * cap


def _rope_kinds(layers: Sequence[Layer]) -> set[str]:
    return {layer.rope for layer in layers if layer.rope is not None}


def _rope(module: Any, kind: str, dtype: torch.dtype) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """positions_N -> (cos_N1R, signed sin_N1R): R rotated dimensions of each head.

    The sine carries the sign of rotate_half, so that turning is x cos + roll(x) sin.
    """
    layered = isinstance(getattr(module, "rope_type", None), dict)
    like = torch.empty(0, dtype=dtype)

    def table(positions_N: Tensor) -> tuple[Tensor, Tensor]:
        names = {"layer_type": kind} if layered else {}
        cos, sin = module(like.to(positions_N.device), positions_N.unsqueeze(0), **names)
        half = sin.shape[-1] // 2
        signed = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
        return cos.squeeze(0).unsqueeze(1), signed.squeeze(0).unsqueeze(1)

    return table
