"""Texts by meaning: what the embedded sentence encoder makes of them, for audits and choices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tunewright.cache import digest
from tunewright.data.audit.material import Embed, Floats
from tunewright.journal import Journal

if TYPE_CHECKING:
    from tunewright.model.load import Base

ENCODER, ENCODER_TOKENS = "embedded:minilm", 128
ENCODED_AT_A_TIME = 1024
Read = Callable[[Sequence[str], Callable[[float], None]], Floats]


def make_encoder(journal: Journal, cache: Path | None = None) -> Embed:
    """Texts to what the embedded sentence encoder makes of them; loaded at the first call.

    cache: folder where vectors are kept, chunk by chunk.
    """
    from tunewright.evaluate.predict import hidden_means
    from tunewright.model.load import load_base

    loaded: list[Base] = []

    def read(texts: Sequence[str], tell: Callable[[float], None]) -> Floats:
        if not loaded:
            loaded.append(load_base(ENCODER, task=None))
        return hidden_means(loaded[0], texts, ENCODER_TOKENS, tell)

    def embed(texts: Sequence[str]) -> Floats:
        filled = [text or " " for text in texts]
        with journal.progress(f"reading {len(texts):,} texts with {ENCODER}", 1.0) as advance:
            if cache is None:
                return read(filled, lambda done: advance(done, ""))
            parts = []
            for begin in range(0, len(filled), ENCODED_AT_A_TIME):
                part = filled[begin : begin + ENCODED_AT_A_TIME]
                parts.append(_keep_vectors(cache, part, read))
                advance(min(1.0, (begin + len(part)) / len(filled)), "")
            return np.concatenate(parts)

    return embed


def _keep_vectors(cache: Path, texts: Sequence[str], read: Read) -> Floats:
    """(N, D) vectors of these texts, from the cache where it has them."""
    path = cache / f"vectors-{digest(ENCODER, ENCODER_TOKENS, list(texts))}.npy"
    try:
        found: Floats = np.load(path, allow_pickle=False)
        if len(found) == len(texts):
            return found
    except (OSError, ValueError, EOFError):
        pass
    found = read(texts, lambda done: None)
    cache.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    with open(aside, "wb") as file:
        np.save(file, found, allow_pickle=False)
    aside.replace(path)
    return found
