"""The LoRA family: W + scale * B A (Hu et al. 2021), its scales, its starts, DoRA on top.

Sources: DoRA (Liu et al. 2024), rank-stabilised scale (Kalajdzievski 2023), LoRA+ (Hayou et al.
2024), PiSSA (Meng et al. 2024), EVA (Paischer et al. 2024), LoftQ (Li et al. 2023); all but LoRA+,
which is a learning rate, are PEFT's own implementations.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tunewright.errors import ModelError
from tunewright.methods import Eva, LowRank, Pissa
from tunewright.model.adapters.targets import How, find_targets, linear_targets
from tunewright.model.load import Base
from tunewright.model.peft_quietly import peft


def lora(base: Base, how: How) -> Any:
    """A low-rank addition on every target; with B at zero, step 0 equals the base.

    Raises ModelError for a start that these layers cannot give.
    """
    options = how.options
    assert isinstance(options, LowRank)
    _check_start(base, how, options)
    return peft.LoraConfig(
        r=how.r,
        lora_alpha=how.alpha,  # type: ignore[arg-type]  # peft divides it; whole numbers not needed
        lora_dropout=how.dropout,
        use_dora=options.dora,
        use_rslora=options.rslora,
        init_lora_weights=_init(options),  # type: ignore[arg-type]
        eva_config=_eva(options),  # type: ignore[arg-type]
        trainable_token_indices=_token_rows(base, how),
        bias="none",
        **linear_targets(base, how),
    )


def fast_names(base: Base, how: How) -> frozenset[str]:
    """Parameters that LoRA+ lets learn faster: every B."""
    options = how.options
    if not isinstance(options, LowRank) or options.b_rate_ratio == 1.0:
        return frozenset()
    return frozenset(n for n, _ in base.model.named_parameters() if ".lora_B." in n)


def first_state(model: Any) -> dict[str, Tensor]:
    """A copy of A and B as they start; PiSSA's saved form is made from it."""
    return {
        name: parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if ".lora_A." in name or ".lora_B." in name
    }


def as_plain_lora(
    state: dict[str, Tensor], first: dict[str, Tensor], config: Any
) -> dict[str, Tensor]:
    """Tensors of a plain LoRA on the untouched base, of twice the rank; config is changed with it.

    PiSSA trains on W - s B0 A0, so what it learned is s (B A - B0 A0) = s [B, -B0] [A; A0].
    """
    out = dict(state)
    for name, start in first.items():
        now, start = state[name], start.to(state[name])
        down = ".lora_A." in name
        out[name] = torch.cat([now, start], 0) if down else torch.cat([now, -start], 1)
    factor = 2.0**0.5 if config.use_rslora else 2.0
    config.r, config.lora_alpha = 2 * config.r, factor * config.lora_alpha
    config.init_lora_weights = True
    return out


def _check_start(base: Base, how: How, options: LowRank) -> None:
    """Starts from directions of the weights need whole weights, and as many directions as ranks."""
    if options.init not in ("pissa", "loftq", "eva"):
        return
    if options.init == "pissa" and base.quantization != "none":
        raise ModelError(
            f"adapter.init: pissa starts from whole weights, here they are held in "
            f"{base.quantization}; use adapter.init: loftq, or adapter.quantization: none"
        )
    modules = dict(base.model.named_modules())
    names = find_targets(base, how.target_modules, how.exclude_modules, how.modules_to_save)
    narrow = min(names, key=lambda name: min(_sizes(modules[name])))
    most = min(_sizes(modules[narrow]))
    if how.r > most:
        raise ModelError(
            f"adapter.r: is {how.r}, but {narrow} has only {most} directions to start from with "
            f"{options.init}; use at most {most}"
        )


def _sizes(module: Any) -> tuple[int, int]:
    """(inputs, outputs) of a linear layer, also of a transposed or packed one."""
    if hasattr(module, "in_features"):
        return int(module.in_features), int(module.out_features)
    rows, columns = module.weight.shape
    return int(rows), int(columns)


def _init(options: LowRank) -> bool | str:
    if isinstance(options, Pissa) and options.pissa_iterations:
        return f"pissa_niter_{options.pissa_iterations}"
    # LoftQ's start is computed from the quantised layers, after they stand (quantize.py).
    return True if options.init in ("zero", "loftq") else options.init


def _eva(options: LowRank) -> Any:
    if options.init != "eva":
        return None
    rho = options.eva_rho if isinstance(options, Eva) else 1.0
    return peft.tuners.lora.EvaConfig(rho=rho)  # type: ignore[attr-defined]


def _token_rows(base: Base, how: How) -> dict[str, list[int]] | None:
    """Rows of the embeddings, and of an output layer of its own, that new tokens learn.

    A layer that is trained whole needs none.
    """
    if not how.new_token_ids:
        return None
    names = {id(module): name for name, module in base.model.named_modules()}
    inputs, outputs = base.model.get_input_embeddings(), base.model.get_output_embeddings()
    layers = [inputs]
    if isinstance(outputs, nn.Linear) and outputs.weight is not inputs.weight:
        layers.append(outputs)
    rows, learning = list(how.new_token_ids), [names[id(layer)] for layer in layers]
    whole = tuple(f".{name}" for name in how.modules_to_save)
    kept = [name for name in learning if not f".{name}".endswith(whole)]
    return {name.rsplit(".", 1)[-1]: rows for name in kept} or None
