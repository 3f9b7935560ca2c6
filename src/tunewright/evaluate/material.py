"""What baselines are made from, and their answers as Prediction records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.evaluate.predict import Asker
from tunewright.records import Example, Output, Prediction

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]


class NotPossible(Exception):
    """This baseline does not exist for this material; the message says why, in one clause."""


@dataclass(frozen=True)
class Material:
    """Everything a baseline may use: labelled training rows, rows to answer, the untuned base.

    train and test: as the tuned model gets them. split: the name of test's split.
    asker: the untuned base with its rendering, or None where no base is at hand.
    advance: takes the share done, 0 to 1. num_few_shot: examples in a few-shot prompt.
    memo: what one baseline computed and another may use, such as embeddings.
    """

    task: str
    labels: tuple[str, ...]
    multi_label: bool
    train: tuple[Example, ...]
    test: tuple[Example, ...]
    split: str
    seed: int
    asker: Asker | None
    advance: Callable[[float], None]
    num_few_shot: int = 4
    memo: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)


def need_task(material: Material, *tasks: str) -> None:
    """Raise NotPossible unless the task is one of these and there are training rows."""
    if material.task not in tasks:
        raise NotPossible(f"it answers {' and '.join(tasks)} tasks, not {material.task}")
    if not material.train:
        raise NotPossible("there is no training row to learn from")


def need_asker(material: Material) -> Asker:
    """The untuned base. Raises NotPossible where there is none."""
    if material.asker is None:
        raise NotPossible("it asks the untuned base, and no base model is loaded")
    return material.asker


def some_rows(rows: Sequence[Example], most: int, seed: int) -> list[Example]:
    """At most `most` rows, drawn at random where there are more; in order of id."""
    chosen = sorted(rows, key=lambda row: row.id)
    if len(chosen) <= most:
        return chosen
    kept = np.random.default_rng(seed).choice(len(chosen), most, replace=False)
    return [chosen[i] for i in np.sort(kept)]


def label_index(rows: Sequence[Example], labels: Sequence[str]) -> Ints:
    """(B,) index of each row's label, -1 for one that is not among the labels."""
    index = {label: number for number, label in enumerate(labels)}
    return np.array([index.get(str(row.output), -1) for row in rows], dtype=np.int64)


def label_matrix(rows: Sequence[Example], labels: Sequence[str]) -> Floats:
    """(B, K) with 1 where a row carries a label; single labels count as sets of one."""
    index = {label: number for number, label in enumerate(labels)}
    marks = np.zeros((len(rows), len(labels)))
    for number, row in enumerate(rows):
        for label in label_set(row.output):
            if label in index:
                marks[number, index[label]] = 1.0
    return marks


def label_set(output: Output) -> tuple[str, ...]:
    """The labels of a row as a sorted tuple."""
    return (
        tuple(sorted(str(part) for part in output)) if isinstance(output, tuple) else (str(output),)
    )


def numbers_of(rows: Sequence[Example]) -> Floats:
    """(B,) regression targets."""
    return np.array([float(row.output) for row in rows])  # type: ignore[arg-type]


def spread(probabilities: Floats, classes: Ints, num_labels: int) -> Floats:
    """(B, num_labels) from (B, classes): a label that training never saw gets probability 0."""
    full = np.zeros((len(probabilities), num_labels))
    full[:, classes] = probabilities
    return full


def class_answers(material: Material, system: str, probabilities_BK: Floats) -> list[Prediction]:
    """Predictions from probabilities: the likeliest label, or every label from one half on."""
    labels = material.labels
    answers = []
    for example, row in zip(material.test, probabilities_BK, strict=True):
        top = int(row.argmax())
        chosen: Output = labels[top]
        confidence = float(row[top])
        if material.multi_label:
            chosen = tuple(label for label, p in zip(labels, row, strict=True) if p >= 0.5)
            confidence = float(np.maximum(row, 1.0 - row).min())
        answers.append(answer(material, example, system, chosen, confidence, row))
    return answers


def number_answers(material: Material, system: str, values: Floats) -> list[Prediction]:
    """Predictions of a regression baseline."""
    return [
        answer(material, example, system, float(value))
        for example, value in zip(material.test, values, strict=True)
    ]


def answer(
    material: Material,
    example: Example,
    system: str,
    prediction: Output,
    confidence: float | None = None,
    probabilities: Floats | None = None,
) -> Prediction:
    """One row's Prediction."""
    return Prediction(
        id=example.id,
        split=material.split,
        system=system,
        input=example.input,
        reference=example.output,
        prediction=prediction,
        confidence=confidence,
        group=example.group,
        references=example.references,
        probabilities=None if probabilities is None else tuple(float(p) for p in probabilities),
    )
