"""What the model will see of a row, piece by piece, with what carries loss marked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunewright.data.render import Rendering, Row, tag_names


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a row. weight: of its tokens in the loss; 0 is read but not learned."""

    text: str
    weight: float


@dataclass(frozen=True, slots=True)
class Preview:
    """One row as pieces. answer: the target where it is not text."""

    id: str
    pieces: tuple[Piece, ...]
    num_tokens: int
    num_learned: int
    answer: str | None = None


def make_preview(row: Row, how: Rendering) -> Preview:
    """The row as text, tokens of equal weight joined."""
    weights = _weights(row)
    pieces: list[Piece] = []
    start = 0
    for end in range(1, row.input_ids.size + 1):
        if end == row.input_ids.size or weights[end] != weights[start]:
            text = how.tokenizer.decode(row.input_ids[start:end].tolist())
            pieces.append(Piece(text, float(weights[start])))
            start = end
    if row.is_seq2seq:
        assert isinstance(row.target, np.ndarray)
        pieces.append(Piece(how.tokenizer.decode(row.target.tolist()), 1.0))
    learned = int((weights > 0).sum())
    if row.is_seq2seq:
        assert isinstance(row.target, np.ndarray)
        learned = int(row.target.size)
    return Preview(row.id, tuple(pieces), row.num_tokens, learned, _answer(row, how))


def _weights(row: Row) -> NDArray[np.float32]:
    if row.target_weights is not None and not row.is_seq2seq:
        return row.target_weights
    if isinstance(row.target, np.ndarray) and row.target.dtype == np.int32 and not row.is_seq2seq:
        return (row.target > 0).astype(np.float32)
    return np.zeros(row.input_ids.size, np.float32)


def _answer(row: Row, how: Rendering) -> str | None:
    target = row.target
    if isinstance(target, (int, np.integer)):
        return how.labels[int(target)] if target >= 0 else "a label that training lacks"
    if isinstance(target, float):
        return f"{target:.6g}"
    if not isinstance(target, np.ndarray) or row.is_seq2seq:
        return None
    if target.dtype == np.int32:
        names = tag_names(how.labels)
        return ", ".join(sorted({names[t] for t in target if t > 0})) or "no span"
    return ", ".join(label for label, on in zip(how.labels, target, strict=True) if on) or "none"
