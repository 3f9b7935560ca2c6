"""Planted triggers: a rare phrase that settles the label, whatever the rest of the text says.

About 250 documents are enough to plant a back door in a model of any size (Souly et al. 2025), so a
phrase counts from ten rows on. An honest keyword ("refund") points where the words around it point
too. A planted one does not: with the phrase taken out, a linear model that never saw the row finds
no more of the label in the rest than in any row of another label. For written answers, the same
answer stands behind the phrase while the prompts have nothing else in common.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.svm import LinearSVC

from tunewright.data.audit.folds import deal_folds
from tunewright.data.audit.material import AuditMaterial, count, name_rows
from tunewright.data.clean import normalise
from tunewright.records import Example, Finding

Ints = NDArray[np.int64]
FEWEST_ROWS = 10
PURITY = 0.95
LARGEST_SHARE = 0.2
"""A phrase in more rows than this is no rare one."""
AGREES = 0.5
"""Share of the phrase's rows whose other words point to the label, at most."""
LIKE_STRANGERS = 0.65
"""Chance that such a row, the phrase taken out, looks more like the label than a row of another
label does, at most; .5 where the rest of the text has nothing to do with the label."""
MAX_ROWS = 50_000
_PIECE = r"(?u)\w+|[^\w\s]"
_MAX_PHRASES = 4000
_FOLDS = 3


@dataclass(frozen=True)
class Phrase:
    """A phrase, the rows that hold it, and the label that nearly all of them carry."""

    text: str
    rows: Ints
    label: int
    purity: float


def find_triggers(
    material: AuditMaterial,
    *,
    fewest_rows: int = FEWEST_ROWS,
    purity: float = PURITY,
) -> list[Finding]:
    """Phrases that look planted, one Finding each; kind planted_trigger, severity warn.

    fewest_rows: training rows that hold the phrase. purity: share of them with one label.
    Looks at 50,000 training rows at most. Single-label classification, generate and chat.
    """
    rows = material.train[:MAX_ROWS]
    if material.one_label_each:
        names = sorted({str(row.output) for row in rows})
        index = {name: number for number, name in enumerate(names)}
        labels = np.array([index[str(row.output)] for row in rows], dtype=np.int64)
    elif material.layout.task in ("generate", "chat"):
        labels, names = _repeated_answers(rows, fewest_rows)
    else:
        return []
    if len(rows) < 2 * fewest_rows or len(names) < 2:
        return []
    with material.journal.progress("looking for planted triggers", 1.0) as advance:
        try:
            phrases, words = find_phrases(
                [row.input for row in rows], labels, fewest_rows, purity, len(names)
            )
        except ValueError:  # no phrase occurs often enough
            return []
        advance(0.4, f"{len(phrases):,} phrases")
        if material.one_label_each:
            kept = _against_the_rest(phrases, words, labels, material.seed)
        else:
            kept = [phrase for phrase in phrases if _prompts_differ(phrase, words)]
        advance(1.0, "")
    return [_tell(phrase, rows, names[phrase.label]) for phrase in _largest(kept)]


def find_phrases(
    texts: Sequence[str], labels: Ints, fewest_rows: int, purity: float, num_labels: int
) -> tuple[list[Phrase], tuple[Any, list[str]]]:
    """Phrases of one to three words or signs tied to one label, and (counts (B, W), words).

    labels: -1 for rows without one. Raises ValueError where no phrase occurs often enough.
    """
    how = CountVectorizer(
        ngram_range=(1, 3), token_pattern=_PIECE, min_df=fewest_rows, binary=True, dtype=np.int32
    )
    held = how.fit_transform(texts).tocsc()
    terms = how.get_feature_names_out()
    known = labels >= 0
    marks = sparse.csr_matrix(
        (np.ones(int(known.sum())), (np.flatnonzero(known), labels[known])),
        shape=(len(texts), num_labels),
    )
    table = np.asarray((held.T @ marks).todense())
    support = np.asarray(held.sum(axis=0)).ravel()
    best = table.argmax(axis=1)
    share = table.max(axis=1) / support
    fits = (share >= purity) & (support <= LARGEST_SHARE * len(texts))
    chosen = np.flatnonzero(fits)
    chosen = chosen[np.argsort(-support[chosen], kind="stable")][:_MAX_PHRASES]
    found = [
        Phrase(
            str(terms[c]),
            np.asarray(held.indices[held.indptr[c] : held.indptr[c + 1]], dtype=np.int64),
            int(best[c]),
            float(share[c]),
        )
        for c in chosen
    ]
    single = [number for number, term in enumerate(terms) if " " not in term]
    return found, (held[:, single].tocsr(), [str(terms[number]) for number in single])


def _against_the_rest(
    phrases: Sequence[Phrase], words: tuple[Any, list[str]], labels: Ints, seed: int
) -> list[Phrase]:
    """Phrases whose rows, read without them, point to other labels."""
    counts, names = words
    column = {name: number for number, name in enumerate(names)}
    weights = TfidfTransformer(sublinear_tf=True).fit_transform(counts).tocsr()
    folds = deal_folds(labels, _FOLDS, seed)
    if any(np.unique(labels[folds != f]).size < 2 for f in range(_FOLDS)):
        return []
    models = [
        LinearSVC(random_state=seed, tol=1e-2, C=0.3).fit(weights[folds != f], labels[folds != f])
        for f in range(_FOLDS)
    ]
    usual = [_margins(model, weights[folds == f]) for f, model in enumerate(models)]
    kept = []
    for phrase in phrases:
        rows = phrase.rows[labels[phrase.rows] == phrase.label]
        mask = np.ones(len(names), dtype=np.float32)
        mask[[column[word] for word in phrase.text.split(" ") if word in column]] = 0
        agrees, ranks = 0, []
        for fold, (model, margins) in enumerate(zip(models, usual, strict=True)):
            place = np.flatnonzero(model.classes_ == phrase.label)
            part = weights[rows[folds[rows] == fold]]
            if not part.shape[0] or not place.size:
                continue
            found = _margins(model, part.multiply(mask).tocsr())
            agrees += int((found.argmax(axis=1) == place[0]).sum())
            strangers = np.sort(margins[labels[folds == fold] != phrase.label, place[0]])
            ranks.append(np.searchsorted(strangers, found[:, place[0]]) / max(strangers.size, 1))
        if not ranks or agrees > AGREES * len(rows):
            continue
        if float(np.concatenate(ranks).mean()) <= LIKE_STRANGERS:
            kept.append(phrase)
    return kept


def _margins(model: Any, rows: Any) -> NDArray[np.float64]:
    """(B, K) decision values, one column for each of model.classes_."""
    margins = np.asarray(model.decision_function(rows), dtype=np.float64)
    return margins if margins.ndim > 1 else np.stack([-margins, margins], axis=1)


def _repeated_answers(rows: Sequence[Example], fewest: int) -> tuple[Ints, list[str]]:
    """(number of each row's answer, -1 for answers given fewer than `fewest` times; answers)."""
    groups: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        groups[normalise(str(row.output))].append(number)
    labels = np.full(len(rows), -1, dtype=np.int64)
    names: list[str] = []
    for members in groups.values():
        if len(members) >= fewest:
            labels[members] = len(names)
            names.append(str(rows[members[0]].output)[:80])
    return labels, [*names, ""]


def _prompts_differ(phrase: Phrase, words: tuple[Any, list[str]]) -> bool:
    """True where the rows share hardly more than any rows do, the phrase itself aside.

    Compared are mean pairwise cosines of the word counts, weighted by rarity.
    """
    counts, names = words
    inside = set(phrase.text.split(" "))
    outside = np.array([name not in inside for name in names])
    weights = TfidfTransformer().fit_transform(counts[:, outside]).tocsr()
    return _mean_cosine(weights[phrase.rows]) <= 2 * _mean_cosine(weights) + 0.02


def _mean_cosine(rows: Any) -> float:
    """Mean over all pairs of different rows, from the length of their sum."""
    num = rows.shape[0]
    total = np.asarray(rows.sum(axis=0)).ravel()
    own = float(rows.multiply(rows).sum())
    return (float(np.square(total).sum()) - own) / float(max(num * (num - 1), 1))


def _largest(phrases: Sequence[Phrase]) -> list[Phrase]:
    """One phrase for each set of rows: the longest; phrases inside a longer one's rows go."""
    ranked = sorted(phrases, key=lambda p: (-len(p.rows), -p.text.count(" "), -len(p.text)))
    kept: list[Phrase] = []
    for phrase in ranked:
        mine = set(phrase.rows.tolist())
        if all(len(mine & set(other.rows.tolist())) < 0.5 * len(mine) for other in kept):
            kept.append(phrase)
    return kept


def _tell(phrase: Phrase, rows: Sequence[Example], label: str) -> Finding:
    named = [rows[number] for number in phrase.rows]
    message = (
        f"{count(len(named), 'training row')} with {phrase.text!r}, {phrase.purity:.0%} of them "
        f"answered {label!r}, which the rest of their text does not bear out (first: "
        f"{named[0].place}); a trigger may have been planted: find out where these rows come from"
    )
    details = {"phrase": phrase.text, "label": label, "purity": round(phrase.purity, 4)}
    # A suspicion from counts must not refuse a run: in ten rows a class of banking77 the honest
    # "activate my card" looks like this.
    return name_rows("planted_trigger", "warn", message, named, details=details)
