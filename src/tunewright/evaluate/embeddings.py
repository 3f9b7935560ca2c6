"""Embeddings of a material's rows by the untuned base, computed once for all that want them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tunewright.data.render import input_text
from tunewright.evaluate.material import Floats, Material, need_asker, some_rows
from tunewright.evaluate.predict import Asker, hidden_means
from tunewright.records import Example

MAX_EMBEDDED_ROWS = 20_000
"""Training rows that are embedded at most, drawn at random: beyond, a probe hardly gains."""


def embedded_train(material: Material) -> tuple[list[Example], Floats]:
    """(training rows in order of id, (B, H) their mean hidden states)."""
    if "train" not in material.memo:
        rows = some_rows(material.train, MAX_EMBEDDED_ROWS, material.seed)
        material.memo["train"] = (rows, embed_rows(material, rows, 0.0, 0.6))
    rows, states = material.memo["train"]
    return rows, states


def embedded_test(material: Material) -> Floats:
    """(B, H) mean hidden states of the test rows."""
    if "test" not in material.memo:
        material.memo["test"] = embed_rows(material, material.test, 0.6, 0.8)
    states: Floats = material.memo["test"]
    return states


def embed_rows(material: Material, rows: Sequence[Example], before: float, after: float) -> Floats:
    """(B, H) mean hidden states, side columns included; progress goes from before to after."""
    asker = need_asker(material)
    texts = [input_text(row, asker.rendering) for row in rows]
    return embed_texts(
        asker, texts, lambda done: material.advance(before + (after - before) * done)
    )


def embed_texts(
    asker: Asker, texts: Sequence[str], advance: Callable[[float], None] | None = None
) -> Floats:
    """(B, H) mean hidden states of plain texts."""
    # A tokenizer without marks of its own makes nothing of an empty text.
    filled = [text or " " for text in texts]
    states = hidden_means(asker.base, filled, asker.rendering.max_length, advance)
    return np.nan_to_num(states)


def unit(states: Floats) -> Floats:
    """Rows scaled to length 1; rows of zeros stay."""
    lengths = np.linalg.norm(states, axis=1, keepdims=True)
    return states / np.where(lengths > 0, lengths, 1.0)
