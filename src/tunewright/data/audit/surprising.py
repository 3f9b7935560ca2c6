"""Written answers that fit their prompt badly: swapped, off the subject, or garbled.

With a language model at hand (`material.surprise`) each answer is scored by one that learned from
the other folds. Without one, ridge regression from the prompt's vector to the answer's, again
across folds: an answer that belongs to another prompt lies far from what its own prompt foretells.
"""

from __future__ import annotations

import numpy as np

from tunewright.data.audit.folds import Floats, deal_folds, reduce_words, word_features
from tunewright.data.audit.material import AuditMaterial, count, name_rows, unit
from tunewright.records import Example, Finding

MAX_ROWS = 20_000
FEWEST_ROWS = 100
MOST_SHARE = 0.01
FAR = 3.5
"""Robust standard deviations above the middle (Iglewicz and Hoaglin 1993)."""
_FOLDS = 5
_PENALTY = 1.0


def find_surprising_answers(
    material: AuditMaterial, *, most_share: float = MOST_SHARE, far: float = FAR
) -> list[Finding]:
    """Training rows of generate and chat whose answer surprises most; kind surprising_answer.

    most_share: of rows, at most. far: how far out, in robust standard deviations, a row must lie.
    scores: nats a token with a model, else 1 less the cosine to what was foretold. 100 rows or
    more; 20,000 are looked at.
    """
    rows = material.train[:MAX_ROWS]
    if material.layout.task not in ("generate", "chat") or len(rows) < FEWEST_ROWS:
        return []
    with material.journal.progress("looking for surprising answers", 1.0) as advance:
        if material.surprise is not None:
            scores, unit_name = _by_model(material, rows, advance), "nats a token"
        else:
            scores = mismatch(
                [row.input for row in rows], [str(row.output) for row in rows], material.seed
            )
            unit_name = "away from what the prompt foretells (0 to 2)"
        advance(1.0, "")
    middle = float(np.median(scores))
    spread = 1.4826 * float(np.median(np.abs(scores - middle)))
    order = np.argsort(-scores, kind="stable")[: max(1, int(most_share * len(rows)))]
    chosen = [int(i) for i in order if scores[i] > middle + far * max(spread, 1e-9)]
    if not chosen:
        return []
    message = (
        f"{count(len(chosen), 'training answer')} of {len(rows):,} fit their prompt badly, worst "
        f"first (first: {rows[chosen[0]].place}, {scores[chosen[0]]:.2f} {unit_name}, usual "
        f"{middle:.2f}); look whether they are wrong, swapped or garbled"
    )
    details = {"middle": round(middle, 4), "spread": round(spread, 4), "model": unit_name}
    return [
        name_rows(
            "surprising_answer", "info", message, [rows[i] for i in chosen],
            scores=tuple(round(float(scores[i]), 4) for i in chosen), details=details,
        )
    ]  # fmt: skip


def mismatch(prompts: list[str], answers: list[str], seed: int) -> Floats:
    """(B,) 1 less the cosine between each answer's vector and the one foretold from its prompt.

    Vectors are words and letters, reduced; the foretelling is ridge regression across five folds.
    """
    asked = reduce_words(word_features(prompts), seed)
    given = reduce_words(word_features(answers), seed)
    folds = deal_folds(np.zeros(len(prompts), dtype=np.int64), _FOLDS, seed)
    foretold = np.zeros_like(given)
    for fold in range(_FOLDS):
        held = folds == fold
        known, target = asked[~held], given[~held]
        middle = target.mean(axis=0)
        square = known.T @ known + _PENALTY * np.eye(known.shape[1])
        weights = np.linalg.solve(square, known.T @ (target - middle))
        foretold[held] = asked[held] @ weights + middle
    return np.asarray(1.0 - (unit(foretold) * given).sum(axis=1), dtype=np.float64)


def _by_model(material: AuditMaterial, rows: tuple[Example, ...], advance: object) -> Floats:
    assert material.surprise is not None
    folds = deal_folds(np.zeros(len(rows), dtype=np.int64), _FOLDS, material.seed)
    scores = np.zeros(len(rows))
    for fold in range(_FOLDS):
        held = np.flatnonzero(folds == fold)
        known = [rows[int(i)] for i in np.flatnonzero(folds != fold)]
        scores[held] = material.surprise(known, [rows[int(i)] for i in held])
        if callable(advance):
            advance((fold + 1) / _FOLDS, f"fold {fold + 1} of {_FOLDS}")
    return scores
