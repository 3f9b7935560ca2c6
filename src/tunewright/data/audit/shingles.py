"""Texts as sets of character n-grams, and MinHash signatures of these sets; numpy throughout.

Broder 1997: two sets agree in one MinHash value with a probability equal to their Jaccard index.
A signature is K such values. N texts, S n-grams of all of them together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

UInts = NDArray[np.uint32]
Ints = NDArray[np.int64]
MAX_CHARACTERS = 50_000
"""Of each text, what is compared."""
_MIXERS = (np.uint32(0x2C1B3C6D), np.uint32(0x297A2D39))


def shingle(texts: Sequence[str], size: int) -> tuple[UInts, Ints]:
    """(hashes (S,) of every n-gram of `size` characters, offsets (N + 1,) of each text's first).

    Texts stand between two spaces; shorter ones are filled up, so each has at least one n-gram.
    Repeated n-grams stay.
    """
    padded = [f" {text[:MAX_CHARACTERS]} ".ljust(size) for text in texts]
    lengths = np.fromiter(map(len, padded), dtype=np.int64, count=len(padded))
    code = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    offsets = np.concatenate([[0], np.cumsum(lengths - size + 1)]).astype(np.int64)
    if not len(padded):
        return np.zeros(0, np.uint32), offsets
    rolled = _roll(code, size)
    # Windows that run from one text into the next are left out.
    keep = np.ones(rolled.size, dtype=bool)
    ends = np.cumsum(lengths)[:-1]
    for back in range(1, size):
        keep[ends - back] = False
    return rolled[keep], offsets


def sign(texts: Sequence[str], size: int, num_values: int, seed: int) -> UInts:
    """(num_values, N) MinHash values; equal seeds give comparable signatures."""
    hashes, offsets = shingle(texts, size)
    factors, terms = _permutations(num_values, seed)
    out = np.empty((num_values, len(texts)), dtype=np.uint32)
    # Blocks that stay in the processor's cache: a pass over all n-grams at once takes half as
    # long again.
    begin = 0
    while begin < len(texts):
        last = int(np.searchsorted(offsets, offsets[begin] + _BLOCK, side="right")) - 1
        end = min(len(texts), max(begin + 1, last))
        block = hashes[offsets[begin] : offsets[end]]
        starts = offsets[begin:end] - offsets[begin]
        mixed = np.empty_like(block)
        for value in range(num_values):
            np.multiply(block, factors[value], out=mixed)
            np.add(mixed, terms[value], out=mixed)
            np.minimum.reduceat(mixed, starts, out=out[value, begin:end])
        begin = end
    return out


def jaccard(texts: Sequence[str], pairs: Ints, size: int) -> NDArray[np.float64]:
    """(P,) exact Jaccard index of the n-gram sets of each pair; pairs (P, 2) of text numbers."""
    found = np.zeros(len(pairs))
    for begin in range(0, len(pairs), _PAIRS):
        part = pairs[begin : begin + _PAIRS]
        numbers, places = np.unique(part, return_inverse=True)
        hashes, offsets = shingle([texts[int(i)] for i in numbers], size)
        owner = np.repeat(np.arange(len(numbers), dtype=np.uint64), np.diff(offsets))
        members = np.unique(owner << np.uint64(32) | hashes)
        sets = members & np.uint64(0xFFFFFFFF)
        bounds = np.searchsorted(members, np.arange(len(numbers) + 1, dtype=np.uint64) << 32)
        sizes = np.diff(bounds)
        places = places.reshape(part.shape)
        both = [_gather(sets, bounds, places[:, side]) for side in (0, 1)]
        merged = np.sort(np.concatenate(both))
        twice = merged[1:][merged[1:] == merged[:-1]] >> np.uint64(32)
        shared = np.bincount(twice.astype(np.int64), minlength=len(part))
        total = sizes[places[:, 0]] + sizes[places[:, 1]] - shared
        found[begin : begin + _PAIRS] = shared / total
    return found


_BLOCK = 16_384
_PAIRS = 4096


def _roll(code: UInts, size: int) -> UInts:
    """Mixed hash of every window of `size` codes."""
    length = code.size - size + 1
    out = np.zeros(length, dtype=np.uint32)
    for place in range(size):
        out *= np.uint32(0x01000193)
        out ^= code[place : place + length]
    for mixer, shift in zip(_MIXERS, (15, 12), strict=True):
        out ^= out >> np.uint32(shift)
        out *= mixer
    out ^= out >> np.uint32(15)
    return out


def _permutations(count: int, seed: int) -> tuple[UInts, UInts]:
    rng = np.random.default_rng(seed)
    factors = rng.integers(0, 1 << 31, size=count, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return factors, rng.integers(0, 1 << 32, size=count, dtype=np.uint32)


def _gather(sets: NDArray[np.uint64], bounds: Ints, rows: Ints) -> NDArray[np.uint64]:
    """The sets of these rows one after the other, each member marked with its pair's number."""
    counts = bounds[rows + 1] - bounds[rows]
    begins = np.repeat(bounds[rows] - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
    members = sets[begins + np.arange(counts.sum())]
    owners = np.repeat(np.arange(len(rows), dtype=np.uint64), counts)
    return np.asarray(owners << np.uint64(32) | members, dtype=np.uint64)
