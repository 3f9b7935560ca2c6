"""Locality-sensitive hashing: which signatures share a whole band, and so may be near.

Indyk and Motwani 1998; with b bands of r values, sets of Jaccard index s share a band with
probability 1 - (1 - s^r)^b. N texts, K values a signature, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tunewright.data.audit.shingles import Ints, UInts

Keys = NDArray[np.uint64]
WINDOW = 16
"""In a bucket each row meets this many rows behind it and the first; chains join the rest."""


def band_keys(signatures: UInts, rows_per_band: int) -> Keys:
    """(bands, N) one key for each band of a (K, N) signature; a rest of values is left out."""
    bands = signatures.shape[0] // rows_per_band
    keys = np.zeros((bands, signatures.shape[1]), dtype=np.uint64)
    for band in range(bands):
        for value in signatures[band * rows_per_band : (band + 1) * rows_per_band]:
            keys[band] *= np.uint64(0x9E3779B97F4A7C15)
            keys[band] ^= value
            keys[band] ^= keys[band] >> np.uint64(29)
    return keys


def pairs_within(keys: Keys, window: int = WINDOW) -> Ints:
    """(P, 2) rows whose keys (N,) are equal, the smaller number first, sorted and each once."""
    order = np.argsort(keys, kind="stable")
    ranked = keys[order]
    first = np.concatenate([[True], ranked[1:] != ranked[:-1]]) if keys.size else np.zeros(0, bool)
    run = np.cumsum(first)
    alone = first & np.append(first[1:], True)
    order, run = order[~alone], run[~alone]
    if not order.size:
        return np.zeros((0, 2), dtype=np.int64)
    parts = []
    for step in range(1, window + 1):
        same = run[step:] == run[:-step]
        if not same.any():
            break
        parts.append(np.stack([order[:-step][same], order[step:][same]], axis=1))
    heads = np.maximum.accumulate(
        np.where(np.append(True, run[1:] != run[:-1]), np.arange(run.size), 0)
    )
    far = np.arange(run.size) - heads > window
    parts.append(np.stack([order[heads[far]], order[far]], axis=1))
    return unique_pairs(np.concatenate(parts))


def pairs_across(keys: Keys, num_first: int, most: int) -> Ints:
    """(P, 2) of rows below num_first and rows from there on with equal keys, each pair once.

    Buckets with more than `most` pairs are thinned evenly on the larger side.
    """
    order = np.argsort(keys, kind="stable")
    ranked = keys[order]
    bounds = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1], [True]]))
    parts = []
    for begin, end in _mixed_runs(order, bounds, num_first):
        rows = order[begin:end]
        # A stable sort leaves the rows of a bucket in their order: the first side stands first.
        cut = int(np.searchsorted(rows, num_first))
        first, second = rows[:cut], rows[cut:]
        step = -(-first.size * second.size // most)
        first, second = (
            (first[::step], second) if first.size > second.size else (first, second[::step])
        )
        grid = np.meshgrid(first, second, indexing="ij")
        parts.append(np.stack([grid[0].ravel(), grid[1].ravel()], axis=1))
    return unique_pairs(np.concatenate(parts)) if parts else np.zeros((0, 2), dtype=np.int64)


def unique_pairs(pairs: Ints) -> Ints:
    """The pairs (P, 2), smaller number first, sorted, each once."""
    low, high = np.minimum(pairs[:, 0], pairs[:, 1]), np.maximum(pairs[:, 0], pairs[:, 1])
    packed = np.unique(low.astype(np.uint64) << np.uint64(32) | high.astype(np.uint64))
    return unpack(packed)


def pack(pairs: Ints) -> Keys:
    """(P,) one number for each pair (P, 2)."""
    return pairs[:, 0].astype(np.uint64) << np.uint64(32) | pairs[:, 1].astype(np.uint64)


def unpack(packed: Keys) -> Ints:
    """(P, 2) pairs behind `pack`."""
    low = packed & np.uint64(0xFFFFFFFF)
    return np.stack([packed >> np.uint64(32), low], axis=1).astype(np.int64)


def _mixed_runs(order: Ints, bounds: Ints, num_first: int) -> Iterator[tuple[int, int]]:
    """(begin, end) of the runs of two rows or more that hold both sides."""
    below = np.concatenate([[0], np.cumsum(order < num_first)])
    sizes = np.diff(bounds)
    firsts = below[bounds[1:]] - below[bounds[:-1]]
    for number in np.flatnonzero((firsts > 0) & (firsts < sizes)):
        yield int(bounds[number]), int(bounds[number + 1])
