"""How well the texts that belong to an input rank among many, whoever scored them.

Shapes: B inputs, C texts to choose from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tunewright.records import Example, Prediction

DEPTH = 10
RECALLS = (1, 5, 10)
SOFTNESS = 0.05
"""Scores are divided by it for the surprise: the temperature that training uses where not told."""
Floats = NDArray[np.float64]
Scores = Callable[[Sequence[str], Sequence[str]], Floats]
"""(inputs, texts) to (B, C) scores, higher is nearer."""


def rank(
    examples: Sequence[Example], passages: Sequence[str], scores: Scores, system: str, split: str
) -> list[Prediction]:
    """A Prediction per example: the text that scores highest, and what its ranking is worth."""
    own = [text for e in examples for text in (*right_texts(e), e.rejected or "") if text]
    texts = list(dict.fromkeys([*own, *passages]))
    place = {text: number for number, text in enumerate(texts)}
    scores_BC = scores([e.input for e in examples], texts)
    predictions = []
    for example, row in zip(examples, scores_BC, strict=True):
        right = np.array([place[text] for text in right_texts(example)])
        best = int(row.argmax())
        predictions.append(
            Prediction(
                id=example.id,
                split=split,
                system=system,
                input=example.input,
                reference=example.output,
                prediction=texts[best],
                group=example.group,
                references=example.references,
                graded=grade(row, right),
            )
        )
    return predictions


def right_texts(example: Example) -> tuple[str, ...]:
    """The texts that belong to an example's input."""
    return example.references or (str(example.output),)


def grade(scores_C: Floats, right: NDArray[np.int64]) -> dict[str, float]:
    """nDCG@10, MRR and recalls of one ranking; surprise: nats of the right texts by a softmax.

    Of equal scores the right text stands last, so that a model that says nothing gains nothing.
    """
    wrong_C = np.ones(scores_C.size, dtype=bool)
    wrong_C[right] = False
    wrong = scores_C[wrong_C]
    mine = np.sort(scores_C[right])[::-1]
    ranks = np.array([1 + k + int((wrong >= score).sum()) for k, score in enumerate(mine)])
    gains = (1.0 / np.log2(1.0 + ranks))[ranks <= DEPTH].sum()
    ideal = sum(1.0 / math.log2(2.0 + k) for k in range(min(DEPTH, ranks.size)))
    logits = scores_C / SOFTNESS
    top = logits.max()
    total = top + math.log(float(np.exp(logits - top).sum()))
    recalls = {f"recall@{k}": float((ranks <= k).sum() / min(k, ranks.size)) for k in RECALLS}
    return {
        "ndcg@10": float(gains / ideal),
        "mrr": float(1.0 / ranks[0]),
        **recalls,
        "surprise": float(total - logits[right].mean()),
    }
