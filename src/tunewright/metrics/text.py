"""Metrics of written answers: exact match, token F1, BLEU, chrF, ROUGE; perplexity of references.

BLEU and chrF count with sacrebleu's own code, sentence by sentence; the sums are then scored here
for many resamples at once, by the same formulas.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.metrics.labels import ratio, with_count
from tunewright.records import Prediction

Array = NDArray[np.float64]
NGRAMS = 4
CHAR_ORDERS = 6
BETA_SQUARED = 4.0
ROUGES = ("rouge1", "rouge2", "rougeL")
ARTICLES = re.compile(r"\b(a|an|the)\b")
WORD = re.compile(r"[^\W_]+")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def answer_of(prediction: Prediction) -> str:
    """The written answer; empty for none."""
    return "" if prediction.prediction is None else str(prediction.prediction)


def references_of(prediction: Prediction) -> tuple[str, ...]:
    """All acceptable answers: `references` where given, else `reference` alone."""
    if prediction.references:
        return prediction.references
    return ("" if prediction.reference is None else str(prediction.reference),)


def exact_rows(predictions: Sequence[Prediction], labels: Sequence[str]) -> Array:
    """(n, 2): 1 where the answer equals a reference but for outer white space, and 1."""
    right = [
        answer_of(row).strip() in {text.strip() for text in references_of(row)}
        for row in predictions
    ]
    return with_count(right)


def token_f1_rows(predictions: Sequence[Prediction], labels: Sequence[str]) -> Array:
    """(n, 2): overlap of words with the best reference as F1 (as SQuAD counts), and 1."""
    best = [
        max(token_f1(answer_of(row), text) for text in references_of(row)) for row in predictions
    ]
    return with_count(best)


def token_f1(answer: str, reference: str) -> float:
    """F1 of words without case, punctuation and English articles; 1 when both have none."""
    found, true = _plain_words(answer), _plain_words(reference)
    if not found or not true:
        return float(found == true)
    common = sum((Counter(found) & Counter(true)).values())
    return 2 * common / (len(found) + len(true))


def bleu_rows(predictions: Sequence[Prediction], labels: Sequence[str]) -> Array:
    """(n, 10): answer length, closest reference length, matched and total 1- to 4-grams."""
    from sacrebleu.metrics.bleu import BLEU

    return _sacrebleu_rows(BLEU(force=True), predictions)


def bleu_of(sums: Array) -> Array:
    """Corpus BLEU, 0 ... 100, with sacrebleu's default exponential smoothing.

    An order without any n-gram in the answers ends the product, as in sacrebleu.
    """
    length, reference_length = sums[..., 0], sums[..., 1]
    matched, total = sums[..., 2 : 2 + NGRAMS], sums[..., 2 + NGRAMS :]
    missed = (matched == 0) & (total > 0)
    halvings = np.cumsum(missed, axis=-1)
    top = np.where(missed, 0.5**halvings, matched)
    precision = 100 * ratio(top, total)
    logs = np.log(precision, out=np.full(precision.shape, -9999999999.0), where=precision > 0)
    shortness = np.minimum(0.0, 1 - ratio(reference_length, length, empty=math.inf))
    score = np.exp(shortness) * np.exp(logs.sum(-1) / NGRAMS)
    result: Array = np.where(matched.any(-1), score, 0.0)
    return result


def chrf_rows(predictions: Sequence[Prediction], labels: Sequence[str]) -> Array:
    """(n, 18): character n-grams of answer, reference and both, orders 1 to 6; best reference."""
    from sacrebleu.metrics.chrf import CHRF

    return _sacrebleu_rows(CHRF(), predictions)


def chrf_of(sums: Array) -> Array:
    """Corpus chrF (beta 2), 0 ... 100, averaged over the orders that occur on both sides."""
    found, true, matched = sums[..., 0::3], sums[..., 1::3], sums[..., 2::3]
    used = (found > 0) & (true > 0)
    orders = used.sum(-1)
    precision = ratio((ratio(matched, found) * used).sum(-1), orders)
    recall = ratio((ratio(matched, true) * used).sum(-1), orders)
    top = 100 * (1 + BETA_SQUARED) * precision * recall
    return ratio(top, BETA_SQUARED * precision + recall)


def rouge_rows(predictions: Sequence[Prediction], labels: Sequence[str]) -> Array:
    """(n, 4): F of ROUGE-1, ROUGE-2 and ROUGE-L against the best reference, 0 ... 1, and 1.

    Words are runs of letters and digits of any script, lower case, without stemming.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(ROUGES), tokenizer=_Words())
    rows = np.ones((len(predictions), 4))
    for position, row in enumerate(predictions):
        best = scorer.score_multi(list(references_of(row)), answer_of(row))
        rows[position, :3] = [best[name].fmeasure for name in ROUGES]
    return rows


def likelihood_rows(predictions: Sequence[Prediction], labels: Sequence[str]) -> Array:
    """(n, 3): nats that the model needs for the reference, its tokens, its bytes."""
    return np.array(
        [(row.nll_nats, row.num_tokens or 0, row.num_bytes or 0) for row in predictions],
        dtype=np.float64,
    ).reshape(len(predictions), 3)


def perplexity_of(sums: Array) -> Array:
    """exp of nats per token: comparable only between models of one tokenizer."""
    with np.errstate(over="ignore"):
        result: Array = np.exp(ratio(sums[..., 0], sums[..., 1], empty=math.nan))
    return result


def bits_per_byte_of(sums: Array) -> Array:
    """Bits that the model needs per byte of text: comparable between all models."""
    return ratio(sums[..., 0], sums[..., 2], empty=math.nan) / math.log(2)


class _Words:
    """A tokenizer for rouge-score that also knows letters outside ASCII."""

    tokenize: Callable[[str], list[str]] = staticmethod(lambda text: WORD.findall(text.lower()))


def _plain_words(text: str) -> list[str]:
    return ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split()


def _sacrebleu_rows(scorer: Any, predictions: Sequence[Prediction]) -> Array:
    """Sentence statistics from sacrebleu; None fills up where a row has fewer references."""
    references = [references_of(row) for row in predictions]
    most = max((len(texts) for texts in references), default=0)
    streams = [
        [texts[place] if place < len(texts) else None for texts in references]
        for place in range(most)
    ]
    answers = [answer_of(row) for row in predictions]
    statistics = scorer._extract_corpus_statistics(answers, streams)
    return np.array(statistics, dtype=np.float64)
