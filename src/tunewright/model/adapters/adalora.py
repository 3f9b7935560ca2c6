"""AdaLoRA (Zhang et al. 2023): ranks move, during training, to the layers where they count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tunewright.errors import ModelError
from tunewright.methods import AdaLora
from tunewright.model.adapters.targets import How, linear_targets
from tunewright.model.load import Base
from tunewright.model.peft_quietly import peft

_AVERAGES = ("exp_avg_ipt", "exp_avg_unc")
_PATTERN = "rank_pattern"


def adalora(base: Base, how: How) -> Any:
    """P diag(L) Q of rank r on every target; AdaLoraAllocator lets ranks fall to final_r.

    Raises ModelError where there is no rank to fall to.
    """
    options = how.options
    assert isinstance(options, AdaLora)
    final_r = max(1, round(how.r * 2 / 3)) if options.final_r == "auto" else options.final_r
    if final_r >= how.r:
        raise ModelError(
            f"adapter.final_r: ranks must have somewhere to fall, but r is {how.r} and final_r "
            f"{final_r}; raise adapter.r, or lower adapter.final_r"
        )
    return peft.AdaLoraConfig(
        init_r=how.r,
        target_r=final_r,
        lora_alpha=how.alpha,  # type: ignore[arg-type]
        lora_dropout=how.dropout,
        deltaT=options.allocate_steps,
        orth_reg_weight=options.orthogonality,
        total_step=1_000_000,  # the real number is known when the plan is (AdaLoraAllocator.begin)
        **linear_targets(base, how),
    )


class AdaLoraAllocator:
    """What AdaLoRA does beside the gradient: a penalty, and after each update a look at ranks."""

    def __init__(self, model: Any, options: AdaLora) -> None:
        """model: the PEFT model. options: the shares of the steps."""
        self.tuner = model.base_model
        self.options = options
        self.config = model.peft_config["default"]
        self.parameters = dict(model.named_parameters())

    def begin(self, total_steps: int) -> None:
        """Fix the schedule; called before the first step, of a resumed run too."""
        self.config.total_step = total_steps
        self.config.tinit = int(self.options.warm_share * total_steps)
        self.config.tfinal = int(self.options.final_share * total_steps)

    def penalty(self) -> Tensor:
        """How far P and Q are from orthogonal: mean Frobenius distance, times its weight."""
        distances = []
        for name, p in self.parameters.items():
            if ".lora_A." in name or ".lora_B." in name:
                gram = p @ p.T if ".lora_A." in name else p.T @ p
                distances.append(torch.linalg.matrix_norm(gram - torch.eye(len(gram)).to(gram)))
        weight = float(self.config.orth_reg_weight)
        return weight * torch.stack(distances).mean().float()

    def after_update(self, step: int, gradients: Mapping[str, Tensor]) -> frozenset[str]:
        """Look at importance, mask what is over budget; returns the names that were changed.

        gradients: of the update just made, by parameter name.
        """
        for name, gradient in gradients.items():
            self.parameters[name].grad = gradient.to(self.parameters[name].dtype)
        try:
            self.tuner.update_and_allocate(step)
        finally:
            for name in gradients:
                self.parameters[name].grad = None
        if not self.config.rank_pattern:
            return frozenset()
        return frozenset(name for name in gradients if ".lora_E." in name)

    def state_tensors(self) -> dict[str, Tensor]:
        """Importance averages and the ranks kept, by name, for a checkpoint."""
        allocator = self.tuner.rankallocator
        state = {
            f"{kind}.{name}": tensor
            for kind in _AVERAGES
            for name, tensor in getattr(allocator, kind).items()
        }
        for name, kept in (self.config.rank_pattern or {}).items():
            state[f"{_PATTERN}.{name}"] = torch.tensor(kept, dtype=torch.uint8)
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up the state of a checkpoint, exactly."""
        allocator = self.tuner.rankallocator
        allocator.reset_ipt()
        device = next(iter(self.parameters.values())).device
        pattern: dict[str, list[bool]] = {}
        for key, tensor in state.items():
            kind, _, name = key.partition(".")
            if kind == _PATTERN:
                pattern[name] = [bool(kept) for kept in tensor]
                continue
            getattr(allocator, kind)[name] = tensor.to(device)
            allocator.ipt[name] = torch.zeros_like(tensor, device=device)
        self.config.rank_pattern = pattern or None
