"""How likely the tokens of prompts are: what `echo` with `logprobs` answers, for harnesses.

Shapes: B rows, T positions, V vocabulary, K likeliest tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tunewright.model.load import Base
from tunewright.model.modular import pad_rows

MOST_LOGITS = 1 << 26
"""Logits held at once: 256 MiB of float32."""
MOST_ROWS = 32


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one prompt's tokens, but for the first, which has nothing before it.

    log_probabilities: natural. tops: the K likeliest tokens in each place, likeliest first.
    """

    log_probabilities: tuple[float, ...]
    tops: tuple[tuple[tuple[int, float], ...], ...]


def score_prompts(base: Base, prompts: Sequence[Sequence[int]], tops: int) -> list[Scores]:
    """Scores of each prompt, in their order; prompts of like length share a pass."""
    vocabulary = int(base.plain.get_input_embeddings().weight.shape[0])
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    found: dict[int, Scores] = {}
    while order:
        longest = len(prompts[order[-1]])
        rows = max(1, min(MOST_ROWS, MOST_LOGITS // max(1, longest * vocabulary)))
        group, order = order[-rows:], order[:-rows]
        for place, scores in zip(group, _score([prompts[p] for p in group], base, tops),
                                 strict=True):  # fmt: skip
            found[place] = scores
    return [found[place] for place in range(len(prompts))]


def _score(prompts: Sequence[Sequence[int]], base: Base, tops: int) -> list[Scores]:
    pad = base.tokenizer.pad_token_id or 0
    ids_BT, mask_BT = pad_rows(prompts, pad, left=False, device=base.device)
    with torch.inference_mode():
        logits_BTV = base.model(
            input_ids=ids_BT, attention_mask=mask_BT, use_cache=False
        ).logits  # fmt: skip
        logp_BTV = logits_BTV[:, :-1].float().log_softmax(-1)
        chosen_BT = logp_BTV.gather(2, ids_BT[:, 1:, None]).squeeze(2)
        values_BTK, numbers_BTK = logp_BTV.topk(max(1, tops))
    scored = []
    for row, prompt in enumerate(prompts):
        count = len(prompt) - 1
        likely = [
            tuple(zip(numbers, values, strict=True))
            for numbers, values in zip(
                numbers_BTK[row, :count].tolist(), values_BTK[row, :count].tolist(), strict=True
            )
        ]
        scored.append(Scores(tuple(chosen_BT[row, :count].tolist()), tuple(likely)))
    return scored
