"""The fast training path: what of a model is computed by our own forward and backward passes.

- LoRA linear layers: one function in the weights' own precision. Nothing is cast, frozen weights
  get no gradient, and what the backward pass needs is the input and x A alone.
- Whole decoder layers of Llama's shape (decoder.py), over rows packed end to end: no padding.

The modules stay PEFT's, names and state dict included; saving and loading notice nothing. Layers
that are not plain LoRA keep PEFT's own code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunewright.model.peft_quietly import peft


@dataclass(slots=True)
class LowRank:
    """A frozen linear layer (N, K), with its addition scale B A or without one.

    M tokens, K inputs, N outputs, r rank. The parameters are the model's own, not copies.
    """

    weight_NK: Tensor
    bias_N: Tensor | None
    a_rK: nn.Parameter | None = None
    b_Nr: nn.Parameter | None = None
    scale: float = 1.0

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """What is trained: A and B, or nothing."""
        return () if self.a_rK is None or self.b_Nr is None else (self.a_rK, self.b_Nr)

    def forward(self, x_MK: Tensor) -> tuple[Tensor, Tensor | None]:
        """(output, x A^T for the backward pass). No graph is recorded."""
        y_MN = F.linear(x_MK, self.weight_NK, self.bias_N)
        if self.a_rK is None or self.b_Nr is None:
            return y_MN, None
        low_Mr = x_MK @ self.a_rK.detach().t()
        return y_MN.addmm_(low_Mr, self.b_Nr.detach().t(), alpha=self.scale), low_Mr

    def backward_weights(
        self, dy_MN: Tensor, x_MK: Tensor, low_Mr: Tensor | None, down_Mr: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Gradients of `parameters`; down_Mr comes from `backward_input`."""
        if low_Mr is None or down_Mr is None:
            return ()
        # (x A)^T dy is the faster way round of the same product.
        db_Nr = (low_Mr.t() @ dy_MN).t().contiguous().mul_(self.scale)
        return down_Mr.t() @ x_MK, db_Nr

    def backward_low(self, dy_MN: Tensor) -> Tensor | None:
        """(M, r) scaled gradient of x A^T."""
        if self.b_Nr is None:
            return None
        return (dy_MN @ self.b_Nr.detach()).mul_(self.scale)

    def backward_input(
        self, dy_MN: Tensor, down_Mr: Tensor | None, onto_MK: Tensor | None = None
    ) -> Tensor:
        """Gradient of the input, added onto `onto_MK` where that is given."""
        dx_MK = dy_MN @ self.weight_NK if onto_MK is None else onto_MK.addmm_(dy_MN, self.weight_NK)
        if down_Mr is None or self.a_rK is None:
            return dx_MK
        return dx_MK.addmm_(down_Mr, self.a_rK.detach())


def as_low_rank(module: nn.Module) -> LowRank | None:
    """The layer's numbers where it is a frozen linear layer or plain LoRA on one; else None."""
    if isinstance(module, nn.Linear):
        return _frozen(module)
    if type(module) is not peft.tuners.lora.Linear:
        return None
    base, names = module.get_base_layer(), module.active_adapters
    frozen = _frozen(base) if isinstance(base, nn.Linear) else None
    if frozen is None or len(names) != 1 or module.merged or module.disable_adapters:
        return None
    name = names[0]
    if name not in module.lora_A:
        return frozen
    dropout, variant = module.lora_dropout[name], module.lora_variant.get(name)
    a: Any = module.lora_A[name]
    b: Any = module.lora_B[name]
    plain = (
        variant is None
        and (isinstance(dropout, nn.Identity) or getattr(dropout, "p", 1.0) == 0.0)
        and isinstance(a, nn.Linear)
        and isinstance(b, nn.Linear)
        and a.bias is None
        and b.bias is None
        and a.weight.dtype == b.weight.dtype == base.weight.dtype
        and a.weight.requires_grad
        and b.weight.requires_grad
    )
    if not plain:
        return None
    return LowRank(frozen.weight_NK, frozen.bias_N, a.weight, b.weight, float(module.scaling[name]))


def _frozen(module: nn.Linear) -> LowRank | None:
    weight, bias = module.weight, module.bias
    if type(module) is not nn.Linear or weight.requires_grad:
        return None
    if bias is not None and bias.requires_grad:
        return None
    return LowRank(weight.detach(), None if bias is None else bias.detach())


class _LowRankFunction(torch.autograd.Function):
    """y = x W^T + bias + scale (x A^T) B^T."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: LowRank, a_rK: Tensor, b_Nr: Tensor) -> Tensor:
        x_MK = x.reshape(-1, x.shape[-1])
        y_MN, low_Mr = layer.forward(x_MK)
        ctx.layer = layer
        ctx.save_for_backward(x_MK, low_Mr)
        return y_MN.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        layer: LowRank = ctx.layer
        x_MK, low_Mr = ctx.saved_tensors
        dy_MN = dy.reshape(-1, dy.shape[-1])
        down_Mr = layer.backward_low(dy_MN)
        da, db = layer.backward_weights(dy_MN, x_MK, low_Mr, down_Mr)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = layer.backward_input(dy_MN, down_Mr).view(*dy.shape[:-1], -1)
        return dx, None, da, db


class _FastForward:
    """Stands in for the forward of one PEFT linear layer; falls back where it is not plain LoRA."""

    def __init__(self, module: Any) -> None:
        self.module, self.original = module, module.forward

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        layer = None if args or kwargs else as_low_rank(self.module)
        if layer is None or not layer.parameters or x.dtype != layer.weight_NK.dtype:
            return torch.as_tensor(self.original(x, *args, **kwargs))
        return torch.as_tensor(
            _LowRankFunction.apply(x, layer, layer.a_rK, layer.b_Nr)  # type: ignore[no-untyped-call]
        )


def speed_up(model: nn.Module) -> int:
    """Swap the forward of every plain LoRA linear layer; returns how many. May be repeated."""
    count = 0
    for module in _lora_layers(model):
        if not isinstance(module.__dict__.get("forward"), _FastForward):
            module.forward = _FastForward(module)
        count += 1
    return count


def slow_down(model: nn.Module) -> None:
    """Give every layer PEFT's own forward back."""
    for module in _lora_layers(model):
        module.__dict__.pop("forward", None)


def _lora_layers(model: nn.Module) -> Iterator[Any]:
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.Linear) and as_low_rank(module) is not None:
            yield module
