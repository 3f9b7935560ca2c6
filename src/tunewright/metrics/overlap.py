"""Similarity of two texts from 0 to 1, under the names that OpenAI's graders give it.

Words are runs of letters and digits, in lower case. Each is the sentence's own score, not a mean of
counts over rows as in text.py. METEOR without its synonyms and stems, which need word lists: words
match when they are equal, so a paraphrase scores lower than there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

from tunewright.metrics.text import WORD

LONGEST_CHARS = 20_000
"""Of each text that are looked at; comparing takes time with the square of it."""


def fuzzy_match(answer: str, reference: str) -> float:
    """Share of characters that both have in the same order: rapidfuzz's ratio, as OpenAI takes."""
    from rapidfuzz import fuzz

    return float(fuzz.ratio(answer[:LONGEST_CHARS], reference[:LONGEST_CHARS])) / 100.0


def bleu(answer: str, reference: str) -> float:
    """Sentence BLEU by sacrebleu, of up to four words, smoothed exponentially."""
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(effective_order=True).sentence_score(answer, [reference]).score / 100.0


def gleu(answer: str, reference: str) -> float:
    """Google's BLEU: shared 1- to 4-grams over the longer text's (Wu et al. 2016)."""
    a, b = _words(answer), _words(reference)
    mine, true = (
        Counter(gram for n in range(1, 5) for gram in _grams(words, n)) for words in (a, b)
    )
    longer = max(mine.total(), true.total())
    return (mine & true).total() / longer if longer else 1.0


def rouge(answer: str, reference: str, order: int) -> float:
    """F1 of n-grams of `order` words."""
    a, b = Counter(_grams(_words(answer), order)), Counter(_grams(_words(reference), order))
    if not a or not b:
        return float(_words(answer) == _words(reference))
    return 2 * (a & b).total() / (a.total() + b.total())


def rouge_l(answer: str, reference: str) -> float:
    """F1 of the longest common run of words, gaps allowed."""
    a, b = _words(answer), _words(reference)
    if not a or not b:
        return float(a == b)
    from rapidfuzz.distance import LCSseq

    return 2 * LCSseq.similarity(a, b) / (len(a) + len(b))


def meteor(answer: str, reference: str) -> float:
    """METEOR on equal words (Banerjee and Lavie 2005): recall weighs nine times, breaks cost."""
    a, b = _words(answer), _words(reference)
    if not a or not b:
        return float(a == b)
    pairs = _aligned(a, b)
    if not pairs:
        return 0.0
    precision, recall = len(pairs) / len(a), len(pairs) / len(b)
    mean = 10 * precision * recall / (recall + 9 * precision)
    chunks = 1 + sum(second != (first[0] + 1, first[1] + 1) for first, second in pairwise(pairs))
    return mean * (1 - 0.5 * (chunks / len(pairs)) ** 3)


def _words(text: str) -> list[str]:
    return WORD.findall(text[:LONGEST_CHARS].lower())


def _grams(words: Sequence[str], order: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + order]) for i in range(len(words) - order + 1)]


def _aligned(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int]]:
    """Each word of `a` with its like in `b`: the next in line if it fits, else the first free."""
    free: dict[str, list[int]] = {}
    for place, word in enumerate(b):
        free.setdefault(word, []).append(place)
    pairs: list[tuple[int, int]] = []
    for place, word in enumerate(a):
        choices = free.get(word)
        if not choices:
            continue
        wish = pairs[-1][1] + 1 if pairs else 0
        chosen = wish if wish in choices else choices[0]
        choices.remove(chosen)
        pairs.append((place, chosen))
    return pairs


SIMILARITIES: dict[str, Callable[[str, str], float]] = {
    "fuzzy_match": fuzzy_match,
    "bleu": bleu,
    "gleu": gleu,
    "meteor": meteor,
    "rouge_1": lambda a, b: rouge(a, b, 1),
    "rouge_2": lambda a, b: rouge(a, b, 2),
    "rouge_3": lambda a, b: rouge(a, b, 3),
    "rouge_4": lambda a, b: rouge(a, b, 4),
    "rouge_5": lambda a, b: rouge(a, b, 5),
    "rouge_l": rouge_l,
}
