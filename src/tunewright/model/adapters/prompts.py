"""Learned vectors before the input: as tokens (prompt tuning) or as keys and values (prefix).

Sources: Lester et al. 2021; Li and Liang 2021. PEFT adds them in its own forward; our losses and
our generator call the model inside, so the same is done there, by hooks on its backbone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tunewright.errors import ModelError
from tunewright.methods import PrefixTuning, PromptTuning
from tunewright.model.adapters.targets import How, task_type
from tunewright.model.load import Base
from tunewright.model.peft_quietly import peft

_WRITES = ("generate", "chat", "continue")


def prompt_tuning(base: Base, how: How) -> Any:
    """Vectors before the embeddings of the input. Raises ModelError beside decoders."""
    options = how.options
    assert isinstance(options, PromptTuning)
    _check_writes(base, "prompt_tuning")
    text = options.init_text
    return peft.PromptTuningConfig(
        task_type=task_type(base),
        num_virtual_tokens=options.num_virtual_tokens,
        prompt_tuning_init="TEXT" if text else "SAMPLE_VOCAB",
        prompt_tuning_init_text=text,
        tokenizer_name_or_path=str(base.source.path) if text else None,
    )


def prefix_tuning(base: Base, how: How) -> Any:
    """Keys and values before those of the input, in every layer. Raises ModelError as above."""
    options = how.options
    assert isinstance(options, PrefixTuning)
    _check_writes(base, "prefix_tuning")
    if getattr(base.plain.config.get_text_config(), "sliding_window", None):
        raise ModelError(
            f"adapter.method: prefix_tuning needs layers that see everything before them, but "
            f"{base.plain.config.model_type} has a sliding window; use prompt_tuning or lora"
        )
    return peft.PrefixTuningConfig(
        task_type=task_type(base), num_virtual_tokens=options.num_virtual_tokens
    )


def is_prompt(model: Any) -> bool:
    """Whether a PEFT model learns vectors before the input."""
    configs = getattr(model, "peft_config", {})
    return any(config.is_prompt_learning for config in configs.values())


def put_before_input(model: Any) -> None:
    """Let the plain model inside a PEFT one see what was learned, whoever calls it."""
    plain = model.get_base_model()
    backbone: nn.Module = plain.base_model
    inserted: list[int] = []

    def before(
        _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        inserted.append(0)
        if args:
            kwargs = {"input_ids": args[0], **kwargs}
        if kwargs.get("input_ids") is None:
            return (), kwargs  # PEFT's own forward, which has added them already
        count = model.active_peft_config.num_virtual_tokens
        cache = kwargs.get("past_key_values")
        held = cache.get_seq_length() if cache is not None else 0
        ids_BT, mask_BT = kwargs["input_ids"], kwargs.get("attention_mask")
        if mask_BT is not None and mask_BT.shape[1] < held + ids_BT.shape[1] + count * (not held):
            pads = None if _is_prefix(model) else mask_BT  # a cache comes before any padding
            kwargs["attention_mask"] = _spread(pads, mask_BT.new_ones(1, count), mask_BT)
        positions = kwargs.get("position_ids")
        if positions is not None:
            kwargs["position_ids"] = positions + count
        if not held:
            if _is_prefix(model):
                kwargs["past_key_values"] = _prefix(model, ids_BT.shape[0], cache)
            else:
                inserted[-1] = count
                _insert(model, kwargs, count, mask_BT)
        return (), kwargs

    def after(_: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        count = inserted.pop()
        if count:
            output.last_hidden_state = output.last_hidden_state[:, count:]
        return output

    backbone.register_forward_pre_hook(before, with_kwargs=True)
    backbone.register_forward_hook(after, with_kwargs=True)


def _check_writes(base: Base, method: str) -> None:
    if base.kind != "decoder" or base.task not in _WRITES:
        raise ModelError(
            f"adapter.method: {method} is for decoders that write text, here the task is "
            f"{base.task} on an {base.kind}; use lora"
        )


def _is_prefix(model: Any) -> bool:
    return bool(model.active_peft_config.peft_type == peft.PeftType.PREFIX_TUNING)


def _spread(mask_BT: Tensor | None, new: Tensor, old: Tensor) -> Tensor:
    """New values (1 or B rows) put before the old ones of each row, but behind its left padding.

    Behind it, because a sliding window counts places, padding included.
    """
    joined = torch.cat([new.expand(old.shape[0], *new.shape[1:]), old], dim=1)
    if mask_BT is None or bool(mask_BT[:, 0].all()):
        return joined
    count = new.shape[1]
    pads_B1 = (mask_BT.cumsum(dim=1) == 0).sum(dim=1, keepdim=True)
    place_BT = torch.arange(joined.shape[1], device=old.device).expand(joined.shape[:2])
    source_BT = torch.where(
        place_BT < pads_B1,
        place_BT + count,
        torch.where(place_BT < pads_B1 + count, place_BT - pads_B1, place_BT),
    )
    return joined[torch.arange(old.shape[0], device=old.device).unsqueeze(1), source_BT]


def _insert(model: Any, kwargs: dict[str, Any], count: int, mask_BT: Tensor | None) -> None:
    ids_BT = kwargs.pop("input_ids")
    embedded = model.get_base_model().get_input_embeddings()(ids_BT)
    prompts = model.get_prompt(batch_size=ids_BT.shape[0]).to(embedded.dtype)
    kwargs["inputs_embeds"] = _spread(mask_BT, prompts, embedded)
    positions = kwargs.get("position_ids")
    if positions is not None:
        first = torch.arange(count, device=positions.device).unsqueeze(0)
        kwargs["position_ids"] = _spread(mask_BT, first, positions)


def _prefix(model: Any, batch_size: int, cache: Any) -> Any:
    """The learned keys and values as a cache; in the caller's own one where it brought one."""
    learned = model.get_prompt(batch_size, max_cache_len=-1)
    if cache is None:
        return learned
    for number, layer in enumerate(learned.layers):
        cache.update(layer.keys, layer.values, number)
    return cache
