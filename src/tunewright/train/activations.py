"""EVA: low-rank additions that start from the directions in which a layer's inputs vary.

Source: Paischer et al. 2024, in PEFT's implementation; the rows and their order are ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from tunewright.data.batch import batches_by_length, make_batch, model_inputs
from tunewright.data.render import Row
from tunewright.data.row_file import first_by_id
from tunewright.methods import Eva, LowRank
from tunewright.model.load import Base
from tunewright.model.peft_quietly import peft

FORWARD_TOKENS = 4096


def start_from_activations(
    base: Base, options: LowRank, rows: Sequence[Row], pad_id: int, seed: int
) -> None:
    """Set every A from what the frozen base computes on the training rows; B stays zero.

    Ranks move between layers where the options allow it. The same rows and seed give the same
    start.
    """
    most = options.eva_rows if isinstance(options, Eva) else 512
    chosen = first_by_id(rows, most)
    backbone = base.plain.base_model
    training = base.model.training
    base.model.eval()
    loader = _Loader(base, chosen, pad_id)
    try:
        with (
            torch.random.fork_rng(devices=[]),
            warnings.catch_warnings(),
            torch.no_grad(),
        ):
            warnings.simplefilter("ignore")
            torch.manual_seed(seed)
            peft.tuners.lora.initialize_lora_eva_weights(
                base.model,
                loader,
                forward_fn=lambda model, inputs: backbone(**inputs),
                prepare_model_inputs_fn=_real_tokens,
                show_progress_bar=False,
            )
    finally:
        base.model.train(training)


class _Loader:
    """Batches of one kind as model inputs, as often as PEFT asks for them."""

    def __init__(self, base: Base, rows: Sequence[Row], pad_id: int) -> None:
        self.base, self.rows, self.pad_id = base, rows, pad_id
        self.parts = list(batches_by_length(rows, FORWARD_TOKENS))

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for part in self.parts:
            batch = make_batch(
                [self.rows[i] for i in part], pad_id=self.pad_id, device=self.base.device
            )
            yield model_inputs(batch)


def _real_tokens(inputs: dict[str, Tensor], config: Any) -> Tensor:
    """Places of tokens that are no padding."""
    mask_BT = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
    return mask_BT.bool().nonzero()
