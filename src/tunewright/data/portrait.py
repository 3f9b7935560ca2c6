"""What rows are like beside their counts: words shared between splits, diversity, duplicates."""

from __future__ import annotations

import itertools
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from tunewright.data.clean import normalise
from tunewright.records import Example, Finding, Splits

MAX_TEXTS = 50_000
"""Texts read per split; more would not change a share that is shown in whole per cent."""
_WORD = re.compile(r"\w+")


def describe_portrait(splits: Splits, findings: Sequence[Finding] = ()) -> dict[str, Any]:
    """vocabulary: size by split and shares of validation and test words unknown to training;
    diversity: of training; duplicates: clusters that the findings name.
    """
    train = [example.input for example in splits.train[:MAX_TEXTS]]
    return {
        "vocabulary": describe_vocabulary(
            train,
            {
                "validation": [e.input for e in splits.validation[:MAX_TEXTS]],
                "test": [e.input for e in splits.test[:MAX_TEXTS]],
            },
        ),
        "diversity": describe_diversity(train),
        "duplicates": describe_duplicates(splits.train, findings),
    }


def describe_vocabulary(
    train: Iterable[str], others: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """train_words: different words in training; for each other split its different words, and the
    share of its running words and of its different words that training lacks.
    """
    known = {word for text in train for word in words_of(text)}
    described: dict[str, Any] = {"train_words": len(known)}
    for name, texts in others.items():
        counts = Counter(word for text in texts for word in words_of(text))
        if counts:
            unknown = {word: times for word, times in counts.items() if word not in known}
            described[name] = {
                "words": len(counts),
                "unknown_words_share": len(unknown) / len(counts),
                "unknown_running_share": sum(unknown.values()) / counts.total(),
            }
    return described


def describe_diversity(texts: Sequence[str]) -> dict[str, Any]:
    """distinct_1, distinct_2: different words and word pairs as a share of all (Li et al. 2016);
    distinct_texts: share of texts that differ after normalising; commonest_opening: three words.
    """
    singles: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    openings: Counter[str] = Counter()
    for text in texts:
        words = words_of(text)
        singles.update(words)
        pairs.update(itertools.pairwise(words))
        if len(words) >= 3:
            openings[" ".join(words[:3])] += 1
    if not singles:
        return {}
    opening, times = openings.most_common(1)[0] if openings else ("", 0)
    return {
        "distinct_1": len(singles) / singles.total(),
        "distinct_2": len(pairs) / max(1, pairs.total()),
        "distinct_texts": len({normalise(text) for text in texts}) / len(texts),
        "commonest_opening": opening,
        "commonest_opening_share": times / len(texts),
    }


def describe_duplicates(train: Sequence[Example], findings: Sequence[Finding]) -> dict[str, Any]:
    """Training rows in groups of equal normalised text, and clusters of near-duplicates."""
    keys = array("Q", (_key(example.input) for example in train))
    _, counts = np.unique(np.frombuffer(keys, dtype=np.uint64), return_counts=True)
    sizes: list[int] = sorted(counts[counts > 1].tolist(), reverse=True)
    near = [cluster for finding in findings for cluster in finding.clusters]
    return {
        "groups": len(sizes),
        "rows_in_groups": sum(sizes),
        "largest_groups": sizes[:10],
        "near_clusters": len(near),
        "largest_near_clusters": sorted((len(cluster) for cluster in near), reverse=True)[:10],
    }


def _key(text: str) -> int:
    """64 bits that stand for a text, letters and digits alone: 8 bytes a row, not the text."""
    key = normalise(text).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little")


def words_of(text: str) -> list[str]:
    """The words of a text, case-folded."""
    return _WORD.findall(text.casefold())
