"""Shortcuts in the data: what would let a model score well without learning the task.

A side column or a word in the text that settles the label, prompts that are all alike, and answers
of held-out rows that training holds already.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from tunewright.data.audit.folds import deal_folds
from tunewright.data.audit.material import SIDES, AuditMaterial, count, labels_of, name_rows
from tunewright.data.clean import normalise, plain_words
from tunewright.records import Example, Finding

Table = NDArray[np.float64]
GIVES_AWAY = 0.98
"""Share of rows (of variance for numbers) that a column alone gets right, from which it is told."""
NAMED_IN_TEXT = 0.9
ALIKE = 0.5
_MAX_ROWS = 20_000
_MAX_ALIKE = 50_000
"""Rows, evenly spaced, that tell whether most are alike."""
_MAX_HELD = 200_000
"""Held-out rows whose answers are looked for in training."""
_FOLDS = 5


def find_giveaways(
    material: AuditMaterial, *, gives_away: float = GIVES_AWAY, named_in_text: float = NAMED_IN_TEXT
) -> list[Finding]:
    """Side columns that settle the answer by themselves, and labels that stand in the text.

    Kinds giveaway_column and giveaway_text. A column is judged on rows that a small tree over it
    has not seen; the text by how often a row names its own label and no other.
    """
    rows = material.train[:_MAX_ROWS]
    if len(rows) < 2 * _FOLDS:
        return []
    findings = []
    if material.one_label_each or material.layout.task == "regress":
        for name, values in _columns(rows).items():
            share, base = _told_by(values, rows, material)
            if share >= gives_away and share > base + 0.5 * (1 - base):
                what = "of labels right" if material.one_label_each else "of the variance"
                message = (
                    f"column {name!r} alone gets {share:.1%} {what} on rows it has not seen: it "
                    "gives the answer away, unless it is known when the model is asked; leave it "
                    "out of data.columns"
                )
                details = {"column": name, "share": round(share, 4), "base": round(base, 4)}
                findings.append(Finding("giveaway_column", "warn", message, details=details))
    if material.one_label_each:
        findings += _named_in_text(rows, named_in_text)
    return findings


def find_prompts_alike(material: AuditMaterial, *, alike: float = ALIKE) -> list[Finding]:
    """Training inputs that are mostly one and the same, or mostly one long beginning.

    Kinds prompts_alike (one input in at least `alike` of the rows) and shared_beginning (95 % of
    the inputs begin with the same words, which make up at least `alike` of the usual length).
    """
    rows = material.train
    if len(rows) < 20 or material.layout.task == "continue":
        return []
    looked_at = rows if len(rows) <= _MAX_ALIKE else rows[:: -(-len(rows) // _MAX_ALIKE)]
    (text, most), *_ = Counter(normalise(row.input) for row in looked_at).most_common(1)
    if most >= alike * len(looked_at):
        same = [row for row in rows if normalise(row.input) == text]
        most = len(same)
        message = (
            f"{most:,} of {len(rows):,} training rows have the same input ({same[0].place}: "
            f"{same[0].input[:60]!r}): nothing in it can tell the answers apart; check data.columns"
        )
        return [name_rows("prompts_alike", "error", message, same, details={"rows": most})]
    ranked = sorted(row.input for row in looked_at)
    cut = len(ranked) // 40  # 2.5 % may begin otherwise on either end of the alphabet
    shared = _shared_beginning(ranked[cut], ranked[-1 - cut])
    usual = float(np.median([len(text) for text in ranked]))
    if len(shared) >= 40 and len(shared) >= alike * usual:
        message = (
            f"nearly all training inputs begin with the same {len(shared)} characters, "
            f"{len(shared) / usual:.0%} of the usual length ({shared[:50]!r}): they cost tokens "
            "and teach nothing; a system prompt says them once"
        )
        details = {"characters": len(shared), "share": round(len(shared) / usual, 4)}
        return [Finding("shared_beginning", "info", message, details=details)]
    return []


def find_known_answers(material: AuditMaterial, *, share: float = 0.02) -> list[Finding]:
    """Held-out rows of generate and chat whose answer stands in training; kind answer_in_training.

    share: of held-out rows, from which it is told. Offers a split by answer, which keeps equal
    answers together, where one column holds it.
    """
    if material.layout.task not in ("generate", "chat") or not material.train:
        return []
    asked = {side: material.side(side)[:_MAX_HELD] for side in SIDES[1:]}
    wanted = {_answer(row) for held in asked.values() for row in held}
    known: dict[str, Example] = {}
    for row in material.train:
        answer = _answer(row)
        if answer in wanted:
            known.setdefault(answer, row)
    findings = []
    for side, held in asked.items():
        seen = [row for row in held if _answer(row) in known]
        if not held or len(seen) < max(2, share * len(held)):
            continue
        column = material.layout.columns.output
        remedy = f"set data.group: {column}" if column else "set data.group to a column of it"
        message = (
            f"{len(seen):,} of {len(held):,} {side} rows have an answer that training holds too "
            f"(first: {seen[0].place} and {known[_answer(seen[0])].place}): they can be scored by "
            f"memory; {remedy} to keep equal answers on one side"
        )
        details = {"split": side, "share": round(len(seen) / len(held), 4)}
        twins = tuple(known[_answer(row)].place for row in seen)
        findings.append(
            name_rows(
                "answer_in_training", "warn", message, seen, counterparts=twins, details=details
            )
        )
    return findings


def _shared_beginning(first: str, second: str) -> str:
    pairs = zip(first, second, strict=False)
    unlike = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
    return first[:unlike]


def _answer(row: Example) -> str:
    return str(row.output).strip()


def _columns(rows: Sequence[Example]) -> dict[str, list[Any]]:
    values: dict[str, list[Any]] = defaultdict(lambda: [None] * len(rows))
    for number, row in enumerate(rows):
        for name, value in row.columns:
            values[name][number] = value
    return values


def _told_by(
    values: Sequence[Any], rows: Sequence[Example], material: AuditMaterial
) -> tuple[float, float]:
    """(share right or variance explained on unseen rows, what the commonest answer reaches)."""
    coded = _code(values)
    if material.one_label_each:
        names, answers = np.unique(labels_of(rows), return_inverse=True)
        if len(names) < 2:
            return 0.0, 1.0
        base = float(np.bincount(answers).max() / len(rows))
        folds = deal_folds(answers, _FOLDS, material.seed)
        model = DecisionTreeClassifier(max_leaf_nodes=4 * len(names), random_state=0)
    else:
        answers = np.array([float(row.output) for row in rows])  # type: ignore[arg-type]
        base = 0.0
        folds = deal_folds(np.zeros(len(rows), dtype=np.int64), _FOLDS, material.seed)
        model = DecisionTreeRegressor(max_leaf_nodes=256, random_state=0)
    found = np.empty(len(rows))
    for fold in range(_FOLDS):
        seen = folds != fold
        found[~seen] = model.fit(coded[seen], answers[seen]).predict(coded[~seen])
    if material.one_label_each:
        return float((found == answers).mean()), base
    spread = float(np.square(answers - answers.mean()).sum())
    return (1 - float(np.square(answers - found).sum()) / spread if spread else 0.0), base


def _code(values: Sequence[Any]) -> Table:
    """(B, 1) numbers as they are; categories by their place among the sorted ones; -1 missing."""
    if all(value is None or isinstance(value, (int, float)) for value in values):
        return np.array([[-1.0 if v is None else float(v)] for v in values])
    order: Mapping[str, int] = {
        name: number for number, name in enumerate(sorted({str(v) for v in values}))
    }
    return np.array([[-1.0 if v is None else float(order[str(v)])] for v in values])


def _named_in_text(rows: Sequence[Example], share: float) -> list[Finding]:
    labels = labels_of(rows)
    words = {label: f" {plain_words(label.replace('_', ' '))} " for label in set(labels)}
    if len(words) < 2:
        return []
    telling = []
    for row, label in zip(rows, labels, strict=True):
        text = f" {plain_words(row.input)} "
        named = {other for other, said in words.items() if said.strip() and said in text}
        if named == {label}:
            telling.append(row)
    if len(telling) < share * len(rows):
        return []
    message = (
        f"{count(len(telling), 'training row')} of {len(rows):,} name their own label, and no "
        f"other, in the text (first: {telling[0].place}): the label is given away, unless real "
        "requests name it too"
    )
    details = {"share": round(len(telling) / len(rows), 4)}
    return [name_rows("giveaway_text", "warn", message, telling, details=details)]
