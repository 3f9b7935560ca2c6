"""The optimiser: AdamW on fp32 master weights, a schedule, gradient clipping, a moving average.

The model may compute in bf16; what is learned is kept in fp32, so that steps smaller than a bf16
rounding are not lost. Source: AdamW (Loshchilov and Hutter 2019); mixed precision with master
weights (Micikevicius et al. 2018).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from tunewright.errors import RecipeError
from tunewright.model import updates
from tunewright.sections import TrainingSection
from tunewright.train.eight_bits import EightBitAdamW
from tunewright.train.parallel import Ranks, Shards, sum_gradients

BETAS = (0.9, 0.98)
"""The second moment is shorter than the usual .999: fine-tuning has hundreds of steps."""
EPSILON = 1e-8
_MOMENTS = ("step", "exp_avg", "exp_avg_sq", "exp_avg_scale", "exp_avg_sq_scale")


@dataclass(frozen=True, slots=True)
class Rates:
    """Peak learning rates: of the base (or its adapter), and of a freshly made head."""

    base: float
    head: float


class Companion(Protocol):
    """What a method does beside the gradient (AdaLoRA moves ranks); its state is checkpointed."""

    def begin(self, total_steps: int) -> None: ...  # noqa: D102
    def penalty(self) -> Tensor: ...  # noqa: D102
    def after_update(self, step: int, gradients: Mapping[str, Tensor]) -> frozenset[str]: ...  # noqa: D102
    def state_tensors(self) -> dict[str, Tensor]: ...  # noqa: D102
    def load_state(self, state: Mapping[str, Tensor]) -> None: ...  # noqa: D102


class MasterAdamW:
    """AdamW over the trainable parameters of a model, with its full state as named tensors."""

    def __init__(
        self,
        named: Sequence[tuple[str, nn.Parameter]],
        head_names: frozenset[str],
        rates: Rates,
        config: TrainingSection,
        *,
        ratios: Mapping[str, float] | None = None,
        companion: Companion | None = None,
        sharding: Shards | None = None,
    ) -> None:
        """named: what is trained. head_names: those that take the head's learning rate.

        ratios: by name, how many times the rate a parameter learns with (LoRA+).
        """
        ratios = ratios or {}
        self.companion, self.sharding = companion, sharding
        self.names = [name for name, _ in named]
        self.parameters = [parameter for _, parameter in named]
        # An fp32 parameter is its own master, unless an average will take its place now and then.
        shared = config.ema == "none"
        self.masters = [
            p.detach()
            if shared and p.dtype == wide(p.dtype)
            else p.detach().to(wide(p.dtype), copy=True)
            for p in self.parameters
        ]
        self.max_grad_norm = config.max_grad_norm
        self.peaks = [
            rates.head if n in head_names else rates.base * ratios.get(n, 1.0) for n in self.names
        ]
        decay = config.weight_decay
        groups: dict[tuple[float, float], list[Tensor]] = {}
        for master, peak in zip(self.masters, self.peaks, strict=True):
            key = (peak, decay if master.ndim >= 2 else 0.0)
            groups.setdefault(key, []).append(master)
        made = [
            {"params": tensors, "lr": peak, "peak": peak, "weight_decay": wd}
            for (peak, wd), tensors in groups.items()
        ]
        self.packs = config.optimizer == "adamw_8bit"
        if self.packs and sharding is not None:
            raise RecipeError(
                "training.optimizer: adamw_8bit is not for weights in parts (fsdp); set it to "
                "adamw, or training.parallel: ddp"
            )
        self.optimizer: torch.optim.AdamW | EightBitAdamW = (
            EightBitAdamW(made, betas=BETAS, eps=EPSILON)
            if self.packs
            else torch.optim.AdamW(made, betas=BETAS, eps=EPSILON, fused=True)
        )
        self.ema_decay = None if config.ema == "none" else float(config.ema)
        self.averages = [m.clone() for m in self.masters] if self.ema_decay else []
        self.updates = 0
        self.waiting: dict[int, Tensor] = {}
        """bf16 gradients of a step's only micro-batch so far, by number: not copied to fp32 yet."""
        self.update_scale = 1.0
        self.places: dict[int, Tensor] = {}
        """Of weights whose gradients are sparse, by number: see updates.Update."""

    def collect_gradients(self) -> None:
        """Add the gradients of one micro-batch to the masters', in fp32.

        Summed in bf16, many micro-batches would lose the small ones among them.
        """
        if self.sharding is not None:
            self.sharding.collect()
        pairs = zip(self.masters, self.parameters, strict=True)
        for number, (master, parameter) in enumerate(pairs):
            grad, parameter.grad = parameter.grad, None
            if grad is None:
                continue
            if grad.is_sparse:
                grad = grad.coalesce()  # autograd forgets that it is
            # A companion reads the gradients in fp32, after the update.
            alone = master.grad is None and number not in self.waiting and self.companion is None
            alone = alone and not self.packs
            if alone and parameter.is_contiguous() and updates.takes(grad):
                self.waiting[number] = grad if grad.is_sparse else grad.contiguous()
                continue
            self._widen(number)
            if master.grad is None:
                master.grad = grad.to_dense().to(master.dtype)
            else:
                master.grad += grad

    def sum_gradients(self, ranks: Ranks) -> None:
        """Add up what the ranks collected; sharded gradients were summed in the backward pass."""
        if ranks.size == 1:
            return
        for number in list(self.waiting):
            self._widen(number)
        if ranks.sharding is None:
            sum_gradients(ranks, self.masters)

    def gradient_norm(self, scale: float) -> Tensor:
        """Multiply the collected gradients by `scale`; returns their global L2 norm."""
        if any(master.grad is not None for master in self.masters):
            for number in list(self.waiting):
                self._widen(number)
        if self.waiting:
            self.update_scale = scale
            squares = updates.square_sum(list(self.waiting.values()))
            return torch.tensor(math.sqrt(squares) * scale, dtype=torch.float64)
        grads = [m.grad for m in self.masters if m.grad is not None]
        if not grads:
            return torch.zeros(())
        torch._foreach_mul_(grads, scale)
        norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        return norm

    def _widen(self, number: int) -> None:
        """A gradient that waited in bf16 becomes the master's, in fp32."""
        if number in self.waiting:
            self.masters[number].grad = self.waiting.pop(number).to_dense().to(torch.float32)

    def step(self, rate_factor: float, norm: float) -> None:
        """One update at `rate_factor` times the peak rates; clips to max_grad_norm first."""
        clip = 1.0
        if self.max_grad_norm is not None and norm > self.max_grad_norm:
            clip = self.max_grad_norm / (norm + 1e-6)
        gradients: dict[str, Tensor] = {}
        if self.waiting:
            self._update_at_once(rate_factor, clip)
        else:
            gradients = self._update(rate_factor, clip)
        self.updates += 1
        if self.companion is not None:
            self._let_companion_act(gradients)
        if self.ema_decay:
            # A warm-up keeps the start out of the average (Tarvainen and Valpola 2017).
            decay = min(self.ema_decay, self.updates / (self.updates + 10))
            torch._foreach_lerp_(self.averages, self.masters, 1.0 - decay)

    def _update(self, rate_factor: float, clip: float) -> dict[str, Tensor]:
        """Returns the gradients that were used, by name."""
        grads = [m.grad for m in self.masters if m.grad is not None]
        if clip != 1.0:
            torch._foreach_mul_(grads, clip)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * rate_factor
        self.optimizer.step()
        self.places = {}  # every line has moved
        named = zip(self.names, self.masters, strict=True)
        gradients = {name: master.grad for name, master in named if master.grad is not None}
        for master in self.masters:
            master.grad = None
        self._copy_to_model(self.masters)
        return gradients

    def _update_at_once(self, rate_factor: float, clip: float) -> None:
        """The same update in one pass over each weight, straight from the bf16 gradients."""
        decays = {
            id(master): float(group["weight_decay"])
            for group in self.optimizer.param_groups
            for master in group["params"]
        }
        wanted = [
            self._update_of(number, grad, rate_factor, decays[id(self.masters[number])])
            for number, grad in self.waiting.items()
        ]
        updates.adamw(wanted, scale=self.update_scale * clip, betas=BETAS, epsilon=EPSILON)
        self.waiting = {}

    def _update_of(
        self, number: int, gradient: Tensor, rate_factor: float, decay: float
    ) -> updates.Update:
        master = self.masters[number]
        state = self.optimizer.state[master]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(master)
            state["exp_avg_sq"] = torch.zeros_like(master)
        state["step"] += 1
        if gradient.is_sparse and number not in self.places:
            self.places[number] = updates.new_places(state["exp_avg"])
        elif not gradient.is_sparse:
            self.places.pop(number, None)
        return updates.Update(
            master, state["exp_avg"], state["exp_avg_sq"], gradient, self.parameters[number].data,
            rate=self.peaks[number] * rate_factor, decay=decay, step=int(state["step"]),
            places=self.places.get(number),
        )  # fmt: skip

    def drop_gradients(self) -> None:
        """Forget gradients of a step that is not taken."""
        self.waiting = {}
        for master, parameter in zip(self.masters, self.parameters, strict=True):
            master.grad = parameter.grad = None

    def use_averages(self) -> None:
        """Put the averaged weights into the model, for evaluation and saving; no-op without EMA."""
        if self.ema_decay:
            self._copy_to_model(self.averages)

    def use_masters(self) -> None:
        """Put the trained weights back into the model."""
        if self.ema_decay:
            self._copy_to_model(self.masters)

    def weights(self) -> dict[str, Tensor]:
        """Name to fp32 tensor of what is evaluated: averages with EMA, masters without."""
        tensors = self.averages if self.ema_decay else self.masters
        return dict(zip(self.names, tensors, strict=True))

    def set_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Make these fp32 tensors what is evaluated, in the model too; for after the last step."""
        for name, held in self.weights().items():
            held.copy_(tensors[name])
        self._copy_to_model(list(self.weights().values()))

    def state_tensors(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, by name, for a checkpoint."""
        state: dict[str, Tensor] = {}
        for number, (name, master) in enumerate(zip(self.names, self.masters, strict=True)):
            state[f"master.{name}"] = master
            moments = self.optimizer.state.get(master, {})
            for key in _MOMENTS:
                if key in moments:
                    state[f"{key}.{name}"] = moments[key]
            if self.averages:
                state[f"average.{name}"] = self.averages[number]
        if self.companion is not None:
            for key, tensor in self.companion.state_tensors().items():
                state[f"companion.{key}"] = tensor
        return state

    def load_state_tensors(self, state: Mapping[str, Tensor], updates: int) -> None:
        """Take up the state of a checkpoint, exactly."""
        self.updates, self.places = updates, {}
        for number, (name, master) in enumerate(zip(self.names, self.masters, strict=True)):
            master.copy_(state[f"master.{name}"])
            if f"exp_avg.{name}" in state:
                # The fused kernel reads the step count where the weights are.
                self.optimizer.state[master] = {
                    key: state[f"{key}.{name}"].clone().to(master.device)
                    for key in _MOMENTS
                    if f"{key}.{name}" in state
                }
            if self.averages:
                self.averages[number].copy_(state[f"average.{name}"])
        if self.companion is not None:
            mine = {k: t for k, t in state.items() if k.startswith("companion.")}
            self.companion.load_state({k.partition(".")[2]: t for k, t in mine.items()})
        self._copy_to_model(self.masters)

    def _let_companion_act(self, gradients: Mapping[str, Tensor]) -> None:
        """What it masks in the model is masked in the masters as well."""
        assert self.companion is not None
        masked = self.companion.after_update(self.updates, gradients)
        for name, parameter, master in zip(self.names, self.parameters, self.masters, strict=True):
            if name in masked:
                master.masked_fill_(parameter.detach() == 0, 0.0)

    def _copy_to_model(self, tensors: Sequence[Tensor]) -> None:
        pairs = [
            (p.data, t)
            for p, t in zip(self.parameters, tensors, strict=True)
            if p.data_ptr() != t.data_ptr()
        ]
        if pairs:
            torch._foreach_copy_([p for p, _ in pairs], [t for _, t in pairs])


def wide(dtype: torch.dtype) -> torch.dtype:
    """What weights of this type are learned in: fp32, or fp64 where they are that already."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def rate_factor(step: int, total_steps: int, config: TrainingSection) -> float:
    """Share of the peak learning rate at a step counted from 0: warm-up, then the schedule."""
    warmup = int(config.warmup_ratio * total_steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total_steps - warmup)
    if config.lr_scheduler == "constant":
        return 1.0
    if config.lr_scheduler == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    return max(0.0, 1.0 - progress)
