"""The next token of each row: greedy, or drawn from the row's own random stream.

What a row draws depends on (its seed, how many tokens it has) alone: neither on the batch around
it, nor on padding, nor on whether it was taken out and begun anew.

Shapes: B rows, V vocabulary, D rows that draw, K candidates.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

CANDIDATES = 512
"""Likeliest tokens looked at before a whole vocabulary is sorted."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen.

    temperature 0 is greedy; above it tokens are drawn from the top_k likeliest (0: all) and among
    them from the top_p share of the probability. Penalties and bias are as OpenAI's API has them:
    a token's logit falls by frequency_penalty per time it was written, by presence_penalty once it
    was. top_logprobs: alternatives to report beside each token.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    top_logprobs: int = 0

    @property
    def is_plain(self) -> bool:
        """True where the likeliest token as it stands is the answer."""
        return self.temperature <= 0 and not self.is_shifted

    @property
    def is_shifted(self) -> bool:
        """True where logits are changed before a token is chosen."""
        return bool(self.frequency_penalty or self.presence_penalty or self.logit_bias)


GREEDY = Sampling()


class Writer(Protocol):
    """A row: how it wants its tokens, and those that it has."""

    @property
    def sampling(self) -> Sampling:
        """How it wants its tokens."""

    @property
    def ids(self) -> list[int]:
        """Tokens written so far."""


@dataclass(frozen=True, slots=True)
class Choice:
    """ids and natural log-probabilities (of the model, at temperature 1) of the chosen tokens.

    tops: for rows that asked, the likeliest tokens with theirs, likeliest first.
    """

    ids: list[int]
    log_probabilities: list[float]
    tops: list[tuple[tuple[int, float], ...]] | None


def choose(logits_BV: Tensor, rows: Sequence[Writer]) -> Choice:
    """One token for each row."""
    logp_BV = logits_BV.float().log_softmax(-1)
    best_B, ids_B = logp_BV.max(-1)
    others = [place for place, row in enumerate(rows) if not row.sampling.is_plain]
    if others:
        chosen = torch.tensor(others, device=logits_BV.device)
        drawn_D = _draw(logp_BV[chosen], [rows[place] for place in others])
        ids_B = ids_B.index_copy(0, chosen, drawn_D)
        best_B = logp_BV.gather(1, ids_B.unsqueeze(1)).squeeze(1)
    most = max(row.sampling.top_logprobs for row in rows)
    return Choice(ids_B.tolist(), best_B.tolist(), _tops(logp_BV, rows, most) if most else None)


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on seed and position alone."""
    digest = hashlib.blake2b(f"{seed}:{position}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / float(1 << 53)


def row_seed(seed: int, index: int) -> int:
    """A seed of its own for each row of a set."""
    digest = hashlib.blake2b(f"row:{seed}:{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _tops(
    logp_BV: Tensor, rows: Sequence[Writer], most: int
) -> list[tuple[tuple[int, float], ...]]:
    values, ids = logp_BV.topk(min(most, logp_BV.shape[1]))
    return [
        tuple(zip(ids_K[: row.sampling.top_logprobs], values_K, strict=False))
        for row, ids_K, values_K in zip(rows, ids.tolist(), values.tolist(), strict=True)
    ]


def _draw(logp_DV: Tensor, rows: Sequence[Writer]) -> Tensor:
    """Token ids of rows that draw, or whose logits are shifted."""
    for place, row in enumerate(rows):
        if row.sampling.is_shifted:
            _shift(logp_DV[place], row)
    greedy = [row.sampling.temperature <= 0 for row in rows]
    heats = [row.sampling.temperature if row.sampling.temperature > 0 else 1.0 for row in rows]
    heat_D1 = torch.tensor(heats, device=logp_DV.device).unsqueeze(1)
    p_DV = (logp_DV / heat_D1).softmax(-1)
    ids = [
        int(p_V.argmax()) if cold else _draw_one(p_V, row)
        for p_V, row, cold in zip(p_DV, rows, greedy, strict=True)
    ]
    return torch.tensor(ids, device=logp_DV.device)


def _shift(logits_V: Tensor, row: Writer) -> None:
    """Apply bias and penalties in place."""
    how = row.sampling
    for token, bias in how.logit_bias:
        logits_V[token] += bias
    if (how.frequency_penalty or how.presence_penalty) and row.ids:
        counts = Counter(row.ids)
        places = torch.tensor(list(counts), device=logits_V.device)
        times = torch.tensor(list(counts.values()), device=logits_V.device, dtype=logits_V.dtype)
        logits_V[places] -= how.frequency_penalty * times + how.presence_penalty


def _draw_one(p_V: Tensor, row: Writer) -> int:
    """A token of one row by the inverse of the cumulated probability."""
    how, point = row.sampling, uniform(row.sampling.seed, len(row.ids))
    if how.top_p >= 1.0 and not how.top_k:
        sums_V = p_V.double().cumsum(-1)
        place = torch.searchsorted(sums_V, sums_V[-1:] * point, right=True)
        return min(int(place), p_V.numel() - 1)
    p_K, ids_K = p_V.topk(min(how.top_k or CANDIDATES, p_V.numel()))
    if not how.top_k and float(p_K.sum()) < how.top_p:
        p_K, ids_K = p_V.sort(descending=True)
    p_K = p_K.double()
    sums_K = p_K.cumsum(-1)
    # The token that crosses top_p still belongs to it, so one always remains.
    whole = float(sums_K[-1]) if how.top_k else 1.0
    kept_K = torch.where(sums_K - p_K < how.top_p * whole, p_K, 0.0).cumsum(-1)
    place = torch.searchsorted(kept_K, kept_K[-1:] * point, right=True)
    return int(ids_K[min(int(place), p_K.numel() - 1)])
