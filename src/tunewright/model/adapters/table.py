"""What is trained: all weights, some layers, or an addition to frozen weights, by name.

Most methods are PEFT's own, on every linear layer of the backbone. The head is not low-rank: what
the task needs new is trained and saved whole. Embeddings, tied or not, and the output layer of a
language model stay as they are, but for rows of new tokens. methods.py holds the options.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from tunewright.errors import ModelError
from tunewright.methods import METHODS, AdaLora, LowRank, Options
from tunewright.model.adapters.adalora import AdaLoraAllocator, adalora
from tunewright.model.adapters.lora import fast_names, first_state, lora
from tunewright.model.adapters.products import loha, lokr
from tunewright.model.adapters.prompts import (
    is_prompt,
    prefix_tuning,
    prompt_tuning,
    put_before_input,
)
from tunewright.model.adapters.rotations import boft, oft
from tunewright.model.adapters.targets import ALL_LINEAR, How
from tunewright.model.adapters.vectors import ia3, ln_tuning, vera
from tunewright.model.adapters.whole import freeze, full
from tunewright.model.load import Base
from tunewright.model.peft_quietly import peft
from tunewright.model.quantize import start_from_error


def attach(
    base: Base,
    method: str,
    *,
    r: int = 16,
    alpha: float = 32.0,
    dropout: float = 0.0,
    target_modules: str | Sequence[str] = ALL_LINEAR,
    exclude_modules: str | Sequence[str] = (),
    modules_to_save: Sequence[str] = (),
    new_tokens: Sequence[str] = (),
    seed: int = 17,
    options: Options | Mapping[str, Any] | None = None,
) -> Base:
    """The base with what `method` trains switched on, everything else frozen; changed in place.

    target_modules: "all-linear", names (ends of module paths) or patterns. options: the method's
    own (methods.py). The same seed gives the same adapter. Raises ModelError for an unknown method
    or module name, naming the nearest real ones, and for a method that the model cannot take.
    """
    if method not in ADAPTERS:
        raise ModelError(f"adapter.method: {method!r} unknown; use {', '.join(ADAPTERS)}")
    if base.adapter is not None:
        raise ModelError(f"{base.reference}: an adapter is attached already; load the base again")
    known = METHODS[method]
    chosen = options if isinstance(options, Options) else known.options(**(options or {}))
    _check_quantization(base, method, chosen)
    how = How(
        chosen, r, alpha, dropout, target_modules, exclude_modules, modules_to_save,
        _token_ids(base, new_tokens), seed,
    )  # fmt: skip
    built = ADAPTERS[method](base, how)
    if isinstance(built, peft.PeftConfig):
        built = _put_on(base, built, how)
    done = dataclasses.replace(base, model=built, adapter=method)
    if isinstance(chosen, LowRank):
        done.fast_names = fast_names(done, how)
        done.rate_ratio = chosen.b_rate_ratio
        done.first_state = first_state(built) if chosen.init == "pissa" else {}
        if chosen.init == "loftq":
            ground = base.source.base or base.source
            start_from_error(built, ground.weights, base.plain.base_model_prefix)
    if isinstance(chosen, AdaLora):
        done.companion = AdaLoraAllocator(built, chosen)
    return done


def trainable_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """(name, parameter) of all that learns, in the model's own order; tied ones once."""
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def _put_on(base: Base, config: peft.PeftConfig, how: How) -> Any:
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(how.seed)
        try:
            model = peft.get_peft_model(base.model, config)
        except (ValueError, NotImplementedError, TypeError) as error:
            reason = str(error).strip().splitlines()[0][:200]
            raise ModelError(
                f"adapter.method: {config.peft_type.value.lower()} does not fit "  # type: ignore[union-attr]
                f"{base.reference} ({reason}); use lora"
            ) from error
    model.train(base.model.training)
    if is_prompt(model):
        put_before_input(model)
    return model


def _check_quantization(base: Base, method: str, options: Options) -> None:
    if isinstance(options, LowRank) and options.init == "loftq" and base.quantization != "nf4":
        raise ModelError(
            "adapter.init: loftq mends what 4 bits lost; use it with adapter.quantization: nf4"
        )
    if base.quantization != "none" and not METHODS[method].quantizable:
        able = ", ".join(name for name, item in METHODS.items() if item.quantizable)
        raise ModelError(
            f"adapter.method: {method} does not train on a base in {base.quantization}; "
            f"use one of {able}, or adapter.quantization: none"
        )


def _token_ids(base: Base, tokens: Sequence[str]) -> tuple[int, ...]:
    """Ids of tokens that were added; the embeddings must have rows for them already."""
    if not tokens:
        return ()
    vocabulary = base.tokenizer.get_vocab()
    missing = [token for token in tokens if token not in vocabulary]
    assert not missing, f"{missing} not added to the tokenizer"
    return tuple(vocabulary[token] for token in tokens)


ADAPTERS: dict[str, Callable[[Base, How], Any]] = {
    "full": full,
    "freeze": freeze,
    "lora": lora,
    "qlora": lora,
    "dora": lora,
    "rslora": lora,
    "lora_plus": lora,
    "pissa": lora,
    "eva": lora,
    "loftq": lora,
    "adalora": adalora,
    "vera": vera,
    "oft": oft,
    "boft": boft,
    "loha": loha,
    "lokr": lokr,
    "ia3": ia3,
    "ln_tuning": ln_tuning,
    "prompt_tuning": prompt_tuning,
    "prefix_tuning": prefix_tuning,
}
assert ADAPTERS.keys() == METHODS.keys()
