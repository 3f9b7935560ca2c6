"""Rows that are nearly the same: MinHash candidates, exact Jaccard index, clusters.

Exact duplicates are found by data/clean.py while rows are read; here they are one text.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from tunewright.data.audit.buckets import Keys, band_keys, pack, pairs_within, unpack
from tunewright.data.audit.material import AuditMaterial, count, name_rows
from tunewright.data.audit.shingles import Ints, UInts, jaccard, sign
from tunewright.data.clean import plain_words
from tunewright.records import Example, Finding

SIZE = 4
"""Characters of an n-gram."""
NUM_VALUES = 64
ROWS_PER_BAND = 4
"""16 bands of 4: pairs of Jaccard index .8 meet with a probability of .9998, of .5 with .64."""
THRESHOLD = 0.8
CHUNK_ROWS = 8192
COSINE = 0.97
MOST_CHARS = 1_000_000_000
"""Of texts that are held to be compared with each other; some millions of short rows."""
_MOST_COSINE_ROWS = 20_000
_SLACK = 0.2
"""Estimates from 64 values stray by .05 (one standard deviation); a pair further below is out."""
Advance = Callable[[float, str], None]


def find_near_duplicates(
    material: AuditMaterial, *, threshold: float = THRESHOLD, cosine: float = COSINE
) -> list[Finding]:
    """Training rows that are nearly the same text, clustered; kind near_duplicate.

    threshold: Jaccard index of character 4-grams from which rows are called near. cosine: of the
    embeddings, where there are some (up to 20,000 rows).
    Rows whose labels disagree within a cluster are told in details["torn"] and the message.
    """
    if len(material.train) < 2:
        return []
    numbers, keys = distinct_rows(material.train)
    rows = material.train
    with material.journal.progress("looking for near-duplicates", 1.0) as advance:
        pairs = near_pairs(
            keys, threshold=threshold, seed=material.seed, workers=material.workers,
            cache=material.cache, advance=advance,
        )  # fmt: skip
    meant = _meant_alike(material, numbers, cosine)
    joined = np.concatenate([pairs, meant]) if len(meant) else pairs
    clusters = cluster(joined, len(numbers))
    if not clusters:
        return []
    named = [[rows[int(numbers[i])] for i in members] for members in clusters]
    later = [row for members in named for row in members[1:]]
    torn = [members for members in named if len({row.output for row in members}) > 1]
    beyond = len(material.train) - int(numbers[-1]) - 1
    message = (
        f"{count(len(later), 'training row')} nearly the same as an earlier one, in "
        f"{count(len(named), 'cluster')} (first: {named[0][0].place} and {named[0][1].place}); "
        "kept: look whether they teach anything new"
    )
    if torn and material.one_label_each:
        message += f"; {count(len(torn), 'cluster')} with different labels"
    if sum(map(len, keys)) > MOST_CHARS:
        message += f"; {beyond:,} rows beyond {MOST_CHARS:,} characters were not looked at"
    details = {
        "threshold": threshold, "pairs": len(pairs), "pairs_by_meaning": len(meant),
        "clusters": len(named), "torn": len(torn) if material.one_label_each else None,
    }  # fmt: skip
    return [
        name_rows(
            "near_duplicate", "info", message, later, details=details,
            clusters=tuple(tuple(row.place for row in members) for members in named),
            counterparts=tuple(members[0].place for members in named for _ in members[1:]),
        )
    ]  # fmt: skip


def distinct_rows(rows: Iterable[Example], most_chars: int = MOST_CHARS) -> tuple[Ints, list[str]]:
    """(number of the first row of each text (N,), its plain words); texts without words left out.

    Beyond most_chars characters in all no further row is looked at.
    """
    firsts: dict[str, int] = {}
    room = most_chars
    for number, row in enumerate(rows):
        key = plain_words(row.input)
        if key and key not in firsts:
            firsts[key] = number
            room -= len(key)
            if room < 0:
                break
    return np.fromiter(firsts.values(), dtype=np.int64, count=len(firsts)), list(firsts)


def near_pairs(
    texts: Sequence[str],
    *,
    threshold: float = THRESHOLD,
    seed: int = 17,
    workers: int = 1,
    cache: Path | None = None,
    advance: Advance | None = None,
) -> Ints:
    """(P, 2) numbers of texts whose Jaccard index of character 4-grams reaches the threshold.

    In large groups of texts that are all alike each meets its next 16 neighbours and the first, so
    clusters are whole while not every pair is listed. texts: plain words, all different.
    cache: signatures already made are read from there, chunk by chunk, and new ones left there.
    """
    tell = advance or (lambda done, note: None)
    keys, marks = _sign_all(texts, seed, workers, cache, tell)
    candidates = _candidates(keys, marks, threshold, tell)
    pairs = unpack(candidates)
    found = np.zeros(len(pairs), dtype=bool)
    step = max(4096, -(-len(pairs) // 50))
    parts = [slice(begin, begin + step) for begin in range(0, len(pairs), step)]
    with ThreadPoolExecutor(workers) as pool:
        work = pool.map(lambda part: jaccard(texts, pairs[part], SIZE) >= threshold, parts)
        for number, (part, near) in enumerate(zip(parts, work, strict=True)):
            found[part] = near
            tell(0.85 + 0.15 * (number + 1) / len(parts), f"{len(pairs):,} pairs compared")
    tell(1.0, "")
    return pairs[found]


def cluster(pairs: Ints, num_rows: int) -> list[list[int]]:
    """Numbers of rows that pairs join, directly or through others; clusters by their first row."""
    if not len(pairs):
        return []
    ones = np.ones(len(pairs), dtype=np.int8)
    graph = sparse.coo_matrix((ones, (pairs[:, 0], pairs[:, 1])), shape=(num_rows, num_rows))
    _, owner = connected_components(graph, directed=False)
    touched = np.unique(pairs)
    members: dict[int, list[int]] = defaultdict(list)
    for row in touched.tolist():
        members[int(owner[row])].append(row)
    return sorted(members.values())


def _sign_all(
    texts: Sequence[str], seed: int, workers: int, cache: Path | None, tell: Advance
) -> tuple[Keys, NDArray[np.uint8]]:
    """(band keys (bands, N), the low byte of each signature value (N, K)), chunk by chunk."""
    bands = NUM_VALUES // ROWS_PER_BAND
    keys = np.empty((bands, len(texts)), dtype=np.uint64)
    marks = np.empty((len(texts), NUM_VALUES), dtype=np.uint8)
    begins = range(0, len(texts), CHUNK_ROWS)

    def make(begin: int) -> tuple[int, UInts]:
        return begin, _signature(texts[begin : begin + CHUNK_ROWS], seed, cache)

    with ThreadPoolExecutor(workers) as pool:
        for begin, signature in _in_order(pool, make, begins, workers):
            end = begin + signature.shape[1]
            keys[:, begin:end] = band_keys(signature, ROWS_PER_BAND)
            marks[begin:end] = (signature & np.uint32(0xFF)).T
            tell(0.7 * end / len(texts), f"{end:,} rows")
    return keys, marks


def _in_order(
    pool: ThreadPoolExecutor,
    make: Callable[[int], tuple[int, UInts]],
    begins: Sequence[int],
    workers: int,
) -> Iterator[tuple[int, UInts]]:
    """Results in order, with only a few chunks in the making, so that memory stays flat."""
    waiting = []
    for begin in begins:
        waiting.append(pool.submit(make, begin))
        if len(waiting) > 2 * workers:
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()


def _signature(texts: Sequence[str], seed: int, cache: Path | None) -> UInts:
    """(K, N) signature of a chunk, from the cache where its content was signed before."""
    if cache is None:
        return sign(texts, SIZE, NUM_VALUES, seed)
    digest = hashlib.blake2b(f"{SIZE} {NUM_VALUES} {seed}".encode(), digest_size=16)
    digest.update("\n".join(texts).encode("utf-8", "surrogatepass"))
    path = cache / f"minhash-{digest.hexdigest()}.npy"
    try:
        found: UInts = np.load(path, allow_pickle=False)
        if found.shape == (NUM_VALUES, len(texts)) and found.dtype == np.uint32:
            return found
    except (OSError, ValueError):
        pass
    found = sign(texts, SIZE, NUM_VALUES, seed)
    cache.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    with open(aside, "wb") as file:
        np.save(file, found, allow_pickle=False)
    aside.replace(path)
    return found


def _candidates(
    keys: Keys, marks: NDArray[np.uint8], threshold: float, tell: Advance
) -> NDArray[np.uint64]:
    """Packed pairs that share a band and whose signatures agree about as much as is asked."""
    seen = np.zeros(0, dtype=np.uint64)
    for band, column in enumerate(keys):
        pairs = pairs_within(column)
        fresh = pairs[~np.isin(pack(pairs), seen, assume_unique=True)]
        kept = []
        for begin in range(0, len(fresh), 1 << 16):
            part = fresh[begin : begin + (1 << 16)]
            agreement = (marks[part[:, 0]] == marks[part[:, 1]]).mean(axis=1)
            kept.append(part[agreement >= threshold - _SLACK])
        if kept:
            seen = np.union1d(seen, pack(np.concatenate(kept)))
        tell(0.7 + 0.15 * (band + 1) / len(keys), f"{seen.size:,} candidates")
    return seen


def _meant_alike(material: AuditMaterial, numbers: Ints, cosine: float) -> Ints:
    """(P, 2) pairs whose embeddings reach this cosine; none without a model."""
    if material.embed is None or len(material.train) > _MOST_COSINE_ROWS:
        return np.zeros((0, 2), dtype=np.int64)
    states = material.embeddings("train")
    assert states is not None
    chosen = states[numbers]
    parts = []
    for begin in range(0, len(chosen), 1024):
        near = chosen[begin : begin + 1024] @ chosen.T >= cosine
        left, right = np.nonzero(near)
        left = left + begin
        parts.append(np.stack([left, right], axis=1)[left < right])
    return np.concatenate(parts).astype(np.int64)
