"""What is trained: all weights (full), or a low-rank addition to frozen ones (LoRA, via PEFT).

LoRA sits on every linear layer of the backbone. The head is not low-rank: what the task needs new
is trained and saved whole. Embeddings, tied or not, and the output layer of a language model stay
as they are. B starts at zero, so at step 0 the adapted model equals its base to the last bit.
"""

from __future__ import annotations

import dataclasses
import difflib
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import peft
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from tunewright.errors import ModelError
from tunewright.model.load import Base

ALL_LINEAR = "all-linear"
_LINEAR = (nn.Linear, Conv1D)
# Parts of multimodal checkpoints that text never passes through.
_NOT_TEXT = ("vision_tower", "vision_model", "multi_modal_projector", "audio_tower", "visual")


def attach(
    base: Base,
    method: str,
    *,
    r: int = 16,
    alpha: float = 32.0,
    dropout: float = 0.0,
    target_modules: str | Sequence[str] = ALL_LINEAR,
    seed: int = 17,
) -> Base:
    """The base with what `method` trains switched on, everything else frozen; changed in place.

    target_modules: "all-linear", or names (ends of module paths). The same seed gives the same
    adapter. Raises ModelError for an unknown method or module name, naming the nearest real ones.
    """
    if method not in ADAPTERS:
        raise ModelError(f"adapter.method: {method!r} unknown; use {' or '.join(ADAPTERS)}")
    if base.adapter is not None:
        raise ModelError(f"{base.reference}: an adapter is attached already; load the base again")
    model = ADAPTERS[method](
        base, r=r, alpha=alpha, dropout=dropout, target_modules=target_modules, seed=seed
    )
    return dataclasses.replace(base, model=model, adapter=method)


def trainable_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """(name, parameter) of all that learns, in the model's own order; tied ones once."""
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def full(base: Base, **options: Any) -> Any:
    """All weights, embeddings too. Takes no notice of the options of low-rank methods."""
    for parameter in base.model.parameters():
        parameter.requires_grad_(True)
    return base.model


def lora(
    base: Base,
    *,
    r: int,
    alpha: float,
    dropout: float,
    target_modules: str | Sequence[str],
    seed: int,
) -> Any:
    """Low-rank additions, W + (alpha / r) B A (Hu et al. 2021), as a PEFT model."""
    heads = head_modules(base)
    targets = find_targets(base, target_modules)
    modules = dict(base.model.named_modules())
    config = peft.LoraConfig(
        r=r,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft divides it; whole numbers not needed
        lora_dropout=dropout,
        target_modules=_short_names(targets, modules),
        modules_to_save=list(heads) or None,
        task_type=_task_type(base),
        fan_in_fan_out=all(isinstance(modules[name], Conv1D) for name in targets),
        bias="none",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = peft.get_peft_model(base.model, config)
    model.train(base.model.training)
    return model


def head_modules(base: Base) -> tuple[str, ...]:
    """Names of the modules that the task adds to the backbone, and of new ones inside it."""
    if base.task not in ("classify", "regress", "tag"):
        return ()
    prefix = base.model.base_model_prefix
    outside = [
        name
        for name, module in base.model.named_children()
        if name != prefix and any(True for _ in module.parameters())
    ]
    # A pooler that the checkpoint lacks: its top module, "bert.pooler", trained whole.
    inside = [name.split(".")[:2] for name in base.fresh if name.startswith(f"{prefix}.")]
    return tuple(dict.fromkeys([*outside, *(".".join(parts) for parts in inside)]))


def find_targets(base: Base, wish: str | Sequence[str]) -> tuple[str, ...]:
    """Full names of the linear layers that get an addition. Raises ModelError."""
    linear = _backbone_linear(base)
    if not linear:
        raise ModelError(f"{base.reference}: no linear layers to adapt; use adapter.method: full")
    if wish == ALL_LINEAR:
        return linear
    names = [wish] if isinstance(wish, str) else list(wish)
    if not names:
        raise ModelError("adapter.target_modules: empty; name modules or use all-linear")
    for name in names:
        if not any(_ends_with(item, name) for item in linear):
            raise ModelError(_no_such_module(name, linear))
    return tuple(item for item in linear if any(_ends_with(item, name) for name in names))


def _backbone_linear(base: Base) -> tuple[str, ...]:
    outputs = base.model.get_output_embeddings()
    heads = head_modules(base)
    return tuple(
        name
        for name, module in base.model.named_modules()
        if isinstance(module, _LINEAR)
        and module is not outputs
        and not any(name == head or name.startswith(f"{head}.") for head in heads)
        and not any(part in _NOT_TEXT for part in name.split("."))
    )


def _ends_with(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")


def _no_such_module(name: str, linear: Iterable[str]) -> str:
    known = list(dict.fromkeys(item.rsplit(".", 1)[-1] for item in linear))
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:8]
    return f"adapter.target_modules: no linear layer {name!r} in this model; there is " + ", ".join(
        near
    )


def _short_names(targets: Sequence[str], modules: dict[str, nn.Module]) -> list[str]:
    """The shortest endings that name the targets and nothing else: "q_proj", "output.dense"."""
    others = [name for name in modules if name not in set(targets)]
    chosen: dict[str, None] = {}
    for name in targets:
        if any(_ends_with(name, ending) for ending in chosen):
            continue
        parts = name.split(".")
        endings = (".".join(parts[-length:]) for length in range(1, len(parts) + 1))
        chosen[next(e for e in endings if not any(_ends_with(other, e) for other in others))] = None
    return list(chosen)


def _task_type(base: Base) -> peft.TaskType:
    if base.task in ("classify", "regress"):
        return peft.TaskType.SEQ_CLS
    if base.task == "tag":
        return peft.TaskType.TOKEN_CLS
    if base.task is None:
        return peft.TaskType.FEATURE_EXTRACTION
    if base.kind == "encoder-decoder":
        return peft.TaskType.SEQ_2_SEQ_LM
    return peft.TaskType.CAUSAL_LM


ADAPTERS: dict[str, Callable[..., Any]] = {
    "full": full,
    "lora": lora,
}
