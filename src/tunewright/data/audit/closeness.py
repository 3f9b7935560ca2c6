"""How close two texts are when one may be the other with typos, a word less, or a greeting.

Words are aligned with affine gaps (Gotoh 1982). A word against a misspelling of it costs little,
the less so where one of the two hardly occurs elsewhere, for real words that look alike ("top",
"to") are seldom slips; a gap costs by its opening, a little less at either end, where greetings
stand; another word costs as much as leaving one out and putting one in. The costs were set on
banking77 with planted leaks, on other seeds than its bar is measured with (bench/leaks.py).

Shapes: P pairs, A and B words of the two texts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from tunewright.data.clean import plain_words

Ints = NDArray[np.int64]
Costs = NDArray[np.float32]
SLIP, TWO_SLIPS = 0.15, 0.3
"""One or two edits away, and one of the words hardly known."""
LOOKALIKE, SHORT_LOOKALIKE = 0.35, 0.7
"""One edit away, both known; short below four letters."""
OTHER_WORD = 2.0
GAP, END_GAP, LONGER_GAP = 1.0, 0.7, 0.3
MAX_WORDS = 200
"""Longer texts are compared by their first words."""
HARDLY_KNOWN = 2
_CJK = re.compile("([\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff])")
_FAR = np.float32(1e6)


def split_words(text: str) -> list[str]:
    """The words that are aligned; scripts without spaces give one word a sign."""
    return _CJK.sub(r" \1 ", plain_words(text)).split()[:MAX_WORDS]


def closeness(first: Sequence[str], second: Sequence[str], pairs: Ints) -> NDArray[np.float32]:
    """(P,) 1 for equal words, less the alignment's cost over the root of the longer text's words.

    pairs: (P, 2) numbers of texts in first and in second. Below 0 is cut to 0.
    """
    if not len(pairs):
        return np.zeros(0, dtype=np.float32)
    counts: Counter[str] = Counter()
    for text in chain(first, second):
        counts.update(set(split_words(text)))
    index = {word: number for number, word in enumerate(counts)}
    # Of a million texts few stand in a pair; the words of the others are not kept.
    used_a, places_a = np.unique(pairs[:, 0], return_inverse=True)
    used_b, places_b = np.unique(pairs[:, 1], return_inverse=True)
    words_a = [split_words(first[int(i)]) for i in used_a]
    words_b = [split_words(second[int(i)]) for i in used_b]
    pairs = np.stack([places_a.reshape(-1), places_b.reshape(-1)], axis=1)
    coded_a = [np.array([index[w] for w in words], dtype=np.int64) for words in words_a]
    coded_b = [np.array([index[w] for w in words], dtype=np.int64) for words in words_b]
    keys, costs = _similar_words(words_a, words_b, pairs, counts, index)
    sizes_a = np.array([len(w) for w in words_a], dtype=np.int64)[pairs[:, 0]]
    sizes_b = np.array([len(w) for w in words_b], dtype=np.int64)[pairs[:, 1]]
    found = np.zeros(len(pairs), dtype=np.float32)
    # Pairs of like length go together, so that little is spent on padding.
    order = np.lexsort((sizes_b, sizes_a))
    step = 8192
    for begin in range(0, len(order), step):
        part = order[begin : begin + step]
        a = _pad([coded_a[i] for i in pairs[part, 0]], -1)
        b = _pad([coded_b[i] for i in pairs[part, 1]], -2)
        cost = _align(a, b, sizes_a[part], sizes_b[part], (keys, costs, len(index)))
        longer = np.maximum(np.maximum(sizes_a[part], sizes_b[part]), 1)
        found[part] = np.clip(1.0 - cost / np.sqrt(longer), 0.0, 1.0)
    return found


def edits(first: str, second: str, most: int = 2) -> int:
    """Optimal string alignment distance (letters changed, added, left out, or two swapped).

    More than `most` comes back as most + 1.
    """
    while first and second and first[0] == second[0]:
        first, second = first[1:], second[1:]
    while first and second and first[-1] == second[-1]:
        first, second = first[:-1], second[:-1]
    if abs(len(first) - len(second)) > most:
        return most + 1
    before: list[int] = []
    last = list(range(len(second) + 1))
    for i, letter in enumerate(first, 1):
        row = [i]
        for j, other in enumerate(second, 1):
            best = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == second[j - 2] and first[i - 2] == other:
                best = min(best, before[j - 2] + 1)
            row.append(best)
        before, last = last, row
    return min(last[-1], most + 1)


def _similar_words(
    words_a: Sequence[Sequence[str]],
    words_b: Sequence[Sequence[str]],
    pairs: Ints,
    counts: Counter[str],
    index: dict[str, int],
) -> tuple[Ints, Costs]:
    """Sorted keys (smaller number times words, plus larger) of words alike, and their costs."""
    asked: set[tuple[str, str]] = set()
    for i, j in pairs.tolist():
        mine, others = set(words_a[i]), set(words_b[j])
        left, right = mine - others, others - mine
        # With this many words unlike, no run of slips makes the texts close.
        if left and right and min(len(left), len(right)) <= 4 and len(left) * len(right) <= 64:
            asked.update((x, y) for x in left for y in right if abs(len(x) - len(y)) <= 2)
    found = {}
    for x, y in asked:
        cost = _word_cost(x, y, counts)
        if cost < OTHER_WORD:
            low, high = sorted((index[x], index[y]))
            found[low * len(index) + high] = cost
    keys = np.array(sorted(found), dtype=np.int64)
    return keys, np.array([found[key] for key in keys.tolist()], dtype=np.float32)


def _word_cost(first: str, second: str, counts: Counter[str]) -> float:
    hardly_known = min(counts[first], counts[second]) <= HARDLY_KNOWN
    size = max(len(first), len(second))
    distance = edits(first, second, 2 if hardly_known and size >= 4 else 1)
    if distance == 1:
        if hardly_known:
            return SLIP
        return LOOKALIKE if size >= 4 else SHORT_LOOKALIKE
    return TWO_SLIPS if distance == 2 and hardly_known and size >= 4 else OTHER_WORD


def _pad(rows: Iterable[Ints], fill: int) -> Ints:
    listed = list(rows)
    out = np.full((len(listed), max((row.size for row in listed), default=0)), fill, dtype=np.int64)
    for number, row in enumerate(listed):
        out[number, : row.size] = row
    return out


def _align(
    a: Ints, b: Ints, sizes_a: Ints, sizes_b: Ints, alike: tuple[Ints, Costs, int]
) -> NDArray[np.float32]:
    """(P,) costs of the cheapest alignments; a (P, A) and b (P, B) word numbers, padded.

    Three tables are kept a row at a time: both sides advance, a word of a stands alone, one of b.
    """
    num, width = len(a), b.shape[1]
    both = np.full((width + 1, num), _FAR)
    only_a, only_b = both.copy(), both.copy()
    both[0] = 0
    for j in range(1, width + 1):
        only_b[j] = END_GAP + LONGER_GAP * (j - 1)
    cost = np.full(num, _FAR)
    _note_finished(cost, (both, only_a, only_b), sizes_a == 0, sizes_b)
    for i in range(1, a.shape[1] + 1):
        new_both, new_a, new_b = (np.full((width + 1, num), _FAR) for _ in range(3))
        new_a[0] = END_GAP + LONGER_GAP * (i - 1)
        at_end_a = sizes_a == i
        for j in range(1, width + 1):
            step = np.minimum(np.minimum(both[j - 1], only_a[j - 1]), only_b[j - 1])
            new_both[j] = step + _substitution(a[:, i - 1], b[:, j - 1], alike)
            open_a = np.where(sizes_b == j, np.float32(END_GAP), np.float32(GAP))
            open_b = np.where(at_end_a, np.float32(END_GAP), np.float32(GAP))
            new_a[j] = np.minimum(
                np.minimum(both[j], only_b[j]) + open_a, only_a[j] + np.float32(LONGER_GAP)
            )
            new_b[j] = np.minimum(
                np.minimum(new_both[j - 1], new_a[j - 1]) + open_b,
                new_b[j - 1] + np.float32(LONGER_GAP),
            )
        both, only_a, only_b = new_both, new_a, new_b
        _note_finished(cost, (both, only_a, only_b), at_end_a, sizes_b)
    return cost


def _note_finished(
    cost: NDArray[np.float32],
    tables: Sequence[NDArray[np.float32]],
    done: NDArray[np.bool_],
    sizes_b: Ints,
) -> None:
    """Keep the cost of the pairs whose first text ends with this row."""
    rows = np.flatnonzero(done)
    ends = [table[sizes_b[rows], rows] for table in tables]
    cost[rows] = np.minimum(np.minimum(ends[0], ends[1]), ends[2])


def _substitution(a: Ints, b: Ints, alike: tuple[Ints, Costs, int]) -> NDArray[np.float32]:
    keys, costs, num_words = alike
    out = np.where(a == b, np.float32(0), np.float32(OTHER_WORD))
    unlike = np.flatnonzero((a != b) & (a >= 0) & (b >= 0))
    if keys.size and unlike.size:
        left, right = a[unlike], b[unlike]
        wanted = np.minimum(left, right) * num_words + np.maximum(left, right)
        places = np.minimum(np.searchsorted(keys, wanted), keys.size - 1)
        hit = keys[places] == wanted
        out[unlike[hit]] = costs[places[hit]]
    return out
