"""Decoding through transformers' own modules: for every architecture that stacked.py does not read.

Rows are padded on the left. New ones join a batch by padding its cache and theirs to one length;
where a model keeps another kind of cache (encoder-decoders, recurrent layers) the batch is filled
once and only shrinks.

Shapes: B rows, T positions.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

from tunewright.errors import ModelError
from tunewright.model.load import Base
from tunewright.model.low_rank import MixedLayers, make_route

_PLAIN_LAYERS = frozenset({None, "full_attention", "sliding_attention"})


class ModularDecoder:
    """Next-token logits for rows that come and go; see SlotDecoder for the three verbs."""

    def __init__(self, base: Base) -> None:
        self.base, self.model, self.device = base, base.plain, base.device
        self.mixed: MixedLayers | None = None
        names = inspect.signature(self.model.forward).parameters
        self.takes_positions = "position_ids" in names
        self.takes_logits_to_keep = "logits_to_keep" in names
        self.pad = base.tokenizer.pad_token_id or 0
        # With learned vectors before the input a row's cache is longer than its mask.
        hooked = bool(self.model.base_model._forward_pre_hooks)
        self.joins = base.kind == "decoder" and _keeps_plain_cache(self.model) and not hooked
        self.wishes: list[str | None] = []
        self.cache: Any = None
        self.encoded: Any = None
        self.mask_BT = torch.zeros(0, 0, dtype=torch.long)

    @torch.inference_mode()
    def add(self, prompts: Sequence[Sequence[int]], adapters: Sequence[str | None]) -> Tensor:
        """Take up rows after those that are there; logits_BV at each prompt's last token."""
        assert self.joins or not self.wishes
        before = (self.cache, self.mask_BT, self.wishes)
        self.wishes = list(adapters)
        if self.base.kind == "encoder-decoder":
            return self._encode(prompts)
        self.cache = DynamicCache() if self.joins else None
        ids_BT, self.mask_BT = pad_rows(prompts, self.pad, left=True, device=self.device)
        logits_BV = self._forward(ids_BT)
        if before[2]:
            self._join(*before)
        return logits_BV

    @torch.inference_mode()
    def step(self, ids: Sequence[int]) -> Tensor:
        """Give every row the token that was chosen for it; logits_BV of the next ones."""
        if self.encoded is None:
            ones = self.mask_BT.new_ones((len(self.mask_BT), 1))
            self.mask_BT = torch.cat([self.mask_BT, ones], dim=1)
        return self._forward(torch.tensor(ids, device=self.device).unsqueeze(1))

    @torch.inference_mode()
    def remove(self, places: Sequence[int]) -> list[int]:
        """Let rows go; returns the old place of each row that stays, in the new order."""
        gone = set(places)
        order = [place for place in range(len(self.wishes)) if place not in gone]
        if not order:
            self.clear()
            return order
        chosen = torch.tensor(order, device=self.device)
        self.wishes = [self.wishes[place] for place in order]
        self.mask_BT = self.mask_BT[chosen]
        if self.encoded is not None:
            hidden = self.encoded.last_hidden_state[chosen]
            self.encoded = type(self.encoded)(last_hidden_state=hidden)
        _select_cache_rows(self.cache, chosen)
        if self.joins:
            self._trim()
        return order

    def clear(self) -> None:
        """Forget all rows."""
        self.wishes, self.cache, self.encoded = [], None, None
        self.mask_BT = torch.zeros(0, 0, dtype=torch.long)

    def _encode(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        ids_BT, self.mask_BT = pad_rows(prompts, self.pad, left=False, device=self.device)
        self.cache = None
        self._set_route()
        self.encoded = self.model.get_encoder()(input_ids=ids_BT, attention_mask=self.mask_BT)
        start = torch.full((len(prompts), 1), start_id(self.model), device=self.device)
        return self._forward(start)

    def _forward(self, ids_BT: Tensor) -> Tensor:
        inputs: dict[str, Any] = {"attention_mask": self.mask_BT, "use_cache": True}
        if self.cache is not None:
            inputs["past_key_values"] = self.cache
        if self.encoded is not None:
            inputs |= {"encoder_outputs": self.encoded, "decoder_input_ids": ids_BT}
        else:
            inputs["input_ids"] = ids_BT
            if self.takes_positions:
                positions = (self.mask_BT.cumsum(-1) - 1).clamp(min=0)
                inputs["position_ids"] = positions[:, -ids_BT.shape[1] :]
            if self.takes_logits_to_keep:
                inputs["logits_to_keep"] = 1
        self._set_route()
        output = self.model(**inputs)
        self.cache = output.past_key_values
        return torch.as_tensor(output.logits)[:, -1, :]

    def _set_route(self) -> None:
        if self.mixed is not None:
            self.mixed.route = make_route(self.wishes, self.device)

    def _join(self, cache: Any, mask_BT: Tensor, wishes: list[str | None]) -> None:
        """Put the rows that were there before those that were just read."""
        width = max(mask_BT.shape[1], self.mask_BT.shape[1])
        old, new = width - mask_BT.shape[1], width - self.mask_BT.shape[1]
        for there, come in zip(cache.layers, self.cache.layers, strict=True):
            there.keys = torch.cat([_pad_left(there.keys, old), _pad_left(come.keys, new)])
            there.values = torch.cat([_pad_left(there.values, old), _pad_left(come.values, new)])
        self.cache = cache
        self.mask_BT = torch.cat([F.pad(mask_BT, (old, 0)), F.pad(self.mask_BT, (new, 0))])
        self.wishes = [*wishes, *self.wishes]

    def _trim(self) -> None:
        """Drop positions on the left where no row has a token any more."""
        used = int(self.mask_BT.any(dim=0).int().argmax())
        if used < max(16, self.mask_BT.shape[1] // 4):  # each cut copies the cache
            return
        self.mask_BT = self.mask_BT[:, used:]
        for layer in self.cache.layers:
            layer.keys = layer.keys[:, :, used:].contiguous()
            layer.values = layer.values[:, :, used:].contiguous()


def _keeps_plain_cache(model: Any) -> bool:
    """True where every layer can keep the keys and values of all positions."""
    config = model.config.get_text_config()
    types = set(getattr(config, "layer_types", None) or [None])
    shared = getattr(config, "num_kv_shared_layers", 0)
    recurrent = any(hasattr(config, name) for name in ("ssm_cfg", "state_size", "conv_kernel"))
    return types <= _PLAIN_LAYERS and not shared and not recurrent


def _pad_left(x_BHTD: Tensor, positions: int) -> Tensor:
    return F.pad(x_BHTD, (0, 0, positions, 0)) if positions else x_BHTD


def _select_cache_rows(cache: Any, chosen: Tensor) -> None:
    """Keep only the chosen rows of a cache. Every cache layer knows how to reorder its rows."""
    for name in ("self_attention_cache", "cross_attention_cache"):
        if hasattr(cache, name):
            _select_cache_rows(getattr(cache, name), chosen)
            if name == "cross_attention_cache":
                return
    for layer in cache.layers:
        if hasattr(layer, "batch_select_indices"):
            layer.batch_select_indices(chosen)
        else:
            layer.reorder_cache(chosen)


def start_id(model: Any) -> int:
    """The token that a decoder with an encoder starts from."""
    for settings in (model.generation_config, model.config):
        for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
            value = getattr(settings, name, None)
            if isinstance(value, int):
                return value
    raise ModelError("config.json: no decoder_start_token_id; add it")


def pad_rows(
    rows: Sequence[Sequence[int]], pad: int, *, left: bool, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(ids_BT, mask_BT), both int64; mask is 1 where a token is."""
    width = max(len(row) for row in rows)
    ids_BT = torch.full((len(rows), width), pad, dtype=torch.long)
    mask_BT = torch.zeros((len(rows), width), dtype=torch.long)
    for place, row in enumerate(rows):
        span = slice(width - len(row), width) if left else slice(0, len(row))
        ids_BT[place, span] = torch.tensor(row, dtype=torch.long)
        mask_BT[place, span] = 1
    return ids_BT.to(device), mask_BT.to(device)
