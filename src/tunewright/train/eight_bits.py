"""AdamW whose two moments are held in 8 bits, a quarter of their memory.

Blocks of 256 values with a scale each, on bitsandbytes' dynamic scale of numbers (Dettmers et al.
2022, "8-bit Optimizers via Block-wise Quantization"). The update itself is computed in fp32, in
plain torch, so it is the same on every device that bitsandbytes can pack on. Small tensors stay in
fp32, as its authors advise.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tunewright.errors import ModelError

BLOCK = 256
SMALL = 4096
"""Fewer values than this stay in fp32."""


def check_eight_bits() -> None:
    """Raise ModelError, with the remedy, where moments cannot be packed."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            "training.optimizer: adamw_8bit needs bitsandbytes; pip install bitsandbytes, or set "
            "training.optimizer: adamw"
        )


class EightBitAdamW:
    """As much of torch's AdamW as MasterAdamW asks for: groups, state by tensor, step."""

    def __init__(
        self, groups: Sequence[dict[str, Any]], *, betas: tuple[float, float], eps: float
    ) -> None:
        """groups: as torch takes them, each with params, lr and weight_decay."""
        check_eight_bits()
        self.param_groups = [dict(group) for group in groups]
        self.betas, self.eps = betas, eps
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self) -> None:
        """One update of every tensor that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, group["lr"], group["weight_decay"])

    def _update(self, weight: Tensor, gradient: Tensor, rate: float, decay: float) -> None:
        first, second = self.betas
        state = self.state.setdefault(weight, {})
        mean, square = _held(state, "exp_avg", weight), _held(state, "exp_avg_sq", weight)
        # Rounded to 8 bits a small square may be 0 where its mean is not, and their ratio without
        # bound. By Cauchy and Schwarz it cannot exceed this in exact numbers, so it is held there.
        most = (1 - first) / ((1 - second) * (1 - first**2 / second)) ** 0.5
        torch.maximum(square, (mean / most) ** 2, out=square)
        mean.lerp_(gradient, 1 - first)
        square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        number = float(state["step"]) + 1 if "step" in state else 1.0
        weight.mul_(1 - rate * decay)
        spread = (square.sqrt() / (1 - second**number) ** 0.5).add_(self.eps)
        weight.addcdiv_(mean, spread, value=-rate / (1 - first**number))
        state["step"] = torch.tensor(number, dtype=torch.float32)
        _hold(state, "exp_avg", mean, signed=True)
        _hold(state, "exp_avg_sq", square, signed=False)


def _held(state: dict[str, Tensor], name: str, weight: Tensor) -> Tensor:
    """A moment in fp32, as it was put away; zeros before the first step."""
    if name not in state:
        return torch.zeros_like(weight)
    if state[name].dtype != torch.uint8:
        return state[name]
    return torch.ops.bitsandbytes.dequantize_blockwise(  # type: ignore[no-any-return]
        state[name], state[f"{name}_scale"], _code(name == "exp_avg", weight.device), BLOCK,
        torch.float32,
    )  # fmt: skip


def _hold(state: dict[str, Tensor], name: str, moment: Tensor, *, signed: bool) -> None:
    if moment.numel() < SMALL or moment.dtype != torch.float32:
        state[name] = moment
        return
    packed = torch.ops.bitsandbytes.quantize_blockwise(moment, _code(signed, moment.device), BLOCK)
    state[name], state[f"{name}_scale"] = packed


@functools.cache
def _code(signed: bool, device: torch.device) -> Tensor:
    """The 256 numbers between -1 (or 0) and 1 that a value may be rounded to."""
    import bitsandbytes

    make: Any = bitsandbytes.functional.create_dynamic_map
    code: Tensor = make(signed=signed)
    return code.to(device)
