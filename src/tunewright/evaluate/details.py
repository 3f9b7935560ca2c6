"""What the report draws from predictions: confusion, calibration, worst classes and rows, examples.

Everything returned is plain JSON material; long texts are cut, for a report is read by people.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from tunewright.metrics.calibration import (
    bins_of,
    confidences_of,
    ece_of,
    ece_rows,
    with_temperature,
)
from tunewright.metrics.labels import classes_of, is_right, label_set
from tunewright.metrics.spans import span_set
from tunewright.metrics.text import answer_of, references_of, token_f1
from tunewright.records import Example, Output, Prediction, Span

MAX_CLASSES = 120
MAX_TEXT = 1000
OTHER_ANSWER = "(other answer)"
OTHER_LABELS = "(other labels)"
SECOND_OPINIONS = ("linear_probe", "tfidf_linear", "boosted_trees", "nearest_neighbour")
MIN_ROWS_FOR_CLASS_MEAN = 5


def make_details(
    predictions: Mapping[str, Sequence[Prediction]],
    *,
    train: Sequence[Example],
    layout_labels: Sequence[str],
    task: str,
    places: Mapping[str, str] | None = None,
    temperature: float | None = None,
) -> dict[str, Any]:
    """All details that predictions give, by system name; those of "tuned", else the first system.

    places: where a row stands in the user's file, by row id. Keys that make no sense for the task
    are left out. temperature: what the tuned model's logits were divided by after training.
    """
    rows = predictions.get("tuned") or next(iter(predictions.values()), ())
    if not rows:
        return {}
    where = places or {}
    details: dict[str, Any] = {
        "labels": list(layout_labels),
        "worst_rows": worst_rows(rows, task=task, places=where),
        "examples": before_and_after(predictions.get("base", ()), rows, task=task),
    }
    if task == "classify":
        counts = Counter(label for example in train for label in label_set(example.output))
        details["worst_classes"] = worst_classes(rows, layout_labels, train_counts=counts)
        details["calibration"] = calibration(rows, temperature)
        details["confusion"] = confusion(rows, layout_labels)
        others = [predictions[name] for name in SECOND_OPINIONS if name in predictions]
        details["probable_label_errors"] = probable_label_errors(rows, others, places=where)
    return {key: value for key, value in details.items() if value not in (None, [], {})}


def confusion(predictions: Sequence[Prediction], labels: Sequence[str]) -> dict[str, Any] | None:
    """{labels, matrix}: matrix[i][j] rows of label i answered as j. None for multi-label.

    Answers that are no label share a last class. Beyond 120 labels, those with the most errors are
    kept and the rest share one class.
    """
    if any(isinstance(row.reference, tuple) for row in predictions):
        return None
    pairs = Counter((str(row.reference), _answered(row)) for row in predictions)
    names = [*classes_of(predictions, labels)]
    if any(answer not in names for _, answer in pairs):
        names.append(OTHER_ANSWER)
    if len(names) > MAX_CLASSES:
        names = _most_confused(pairs, names)
    index = {name: position for position, name in enumerate(names)}
    rest = len(names) - 1
    matrix = np.zeros((len(names), len(names)), dtype=int)
    for (true, answer), count in pairs.items():
        matrix[index.get(true, rest), index.get(answer, rest)] += count
    return {"labels": names, "matrix": matrix.tolist()}


def calibration(
    predictions: Sequence[Prediction], temperature: float | None = None
) -> dict[str, Any] | None:
    """{bins: [{lo, hi, confidence, accuracy, count}], ece}; None where confidences are missing.

    With the temperature that was folded into the model also {temperature, ece_before}.
    """
    if any(row.confidence is None for row in predictions):
        return None
    confidence, right = confidences_of(predictions)
    found = {
        "bins": [asdict(bin_) for bin_ in bins_of(confidence, right)],
        "ece": _calibration_error(predictions),
    }
    if temperature is None or any(row.probabilities is None for row in predictions):
        return found
    before = with_temperature(predictions, 1.0 / temperature)
    return {**found, "temperature": temperature, "ece_before": _calibration_error(before)}


def _calibration_error(predictions: Sequence[Prediction]) -> float:
    return float(ece_of(np.asarray(ece_rows(predictions, ()).sum(axis=0), dtype=np.float64)))


def worst_classes(
    predictions: Sequence[Prediction],
    labels: Sequence[str],
    *,
    train_counts: Mapping[str, int] | None = None,
    top: int = 10,
) -> list[dict[str, Any]]:
    """Classes by rising F1: {label, n, f1, precision, recall, confused_with, train_rows}.

    n: rows of the class here. confused_with: the label most often given in its stead, or None.
    Classes without rows and classes without faults are left out.
    """
    right: Counter[str] = Counter()
    given: Counter[str] = Counter()
    true: Counter[str] = Counter()
    instead: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in predictions:
        answers, references = label_set(row.prediction), label_set(row.reference)
        given.update(answers)
        true.update(references)
        right.update(set(answers) & set(references))
        for label in set(references) - set(answers):
            instead[label].update(set(answers) - set(references))
    faulty = [
        label
        for label in classes_of(predictions, labels)
        if true[label] and not right[label] == given[label] == true[label]
    ]
    f1 = {label: 2 * right[label] / (given[label] + true[label]) for label in faulty}
    faulty.sort(key=lambda label: (f1[label], -true[label], label))
    return [
        {
            "label": label,
            "n": true[label],
            "f1": f1[label],
            "precision": right[label] / given[label] if given[label] else 0.0,
            "recall": right[label] / true[label],
            "confused_with": instead[label].most_common(1)[0][0] if instead[label] else None,
            "train_rows": train_counts.get(label, 0) if train_counts else None,
        }
        for label in faulty[:top]
    ]


def worst_rows(
    predictions: Sequence[Prediction],
    *,
    task: str,
    places: Mapping[str, str] | None = None,
    top: int = 20,
) -> list[dict[str, Any]]:
    """The farthest from right, the surest first: {id, place, input, reference, prediction, ...}."""
    graded = [(goodness(row, task), row) for row in predictions]
    perfect = 0.0 if task == "regress" else 1.0
    wrong = [(grade, row) for grade, row in graded if not grade >= perfect]
    wrong.sort(key=lambda pair: (_order(pair[0]), -(pair[1].confidence or 0.0), pair[1].id))
    return [
        {
            "id": row.id,
            "place": (places or {}).get(row.id, ""),
            "input": _cut(row.input),
            "reference": _plain(row.reference),
            "prediction": _plain(row.prediction),
            "confidence": row.confidence,
        }
        for _, row in wrong[:top]
    ]


def before_and_after(
    base: Sequence[Prediction], tuned: Sequence[Prediction], *, task: str, top: int = 20
) -> list[dict[str, Any]]:
    """Rows on which base and tuned differ most: {id, input, reference, base, tuned, change}.

    change: "fixed" or "broken". Broken rows get the share of the list that they have of all changed
    rows, and at least one place, so that the examples don't flatter.
    """
    before = {row.id: row for row in base}
    pairs = [(before[row.id], row) for row in tuned if row.id in before]
    changes = [
        (_order(goodness(new, task)) - _order(goodness(old, task)), old, new) for old, new in pairs
    ]
    fixed = sorted((c for c in changes if c[0] > 0), key=lambda c: (-c[0], c[2].id))
    broken = sorted((c for c in changes if c[0] < 0), key=lambda c: (c[0], c[2].id))
    if not fixed and not broken:
        return []
    share = math.ceil(top * len(broken) / (len(fixed) + len(broken)))
    num_broken = max(min(share, len(broken)), top - len(fixed))
    return [
        {
            "id": new.id,
            "input": _cut(new.input),
            "reference": _plain(new.reference),
            "base": _plain(old.prediction),
            "tuned": _plain(new.prediction),
            "change": "fixed" if change > 0 else "broken",
        }
        for change, old, new in fixed[: top - min(num_broken, len(broken))] + broken[:num_broken]
    ]


def probable_label_errors(
    tuned: Sequence[Prediction],
    others: Sequence[Sequence[Prediction]],
    *,
    places: Mapping[str, str] | None = None,
    top: int = 50,
) -> list[dict[str, Any]]:
    """Rows whose label two systems doubt alike: {id, place, input, label, suggested, confidence}.

    A row is named when the tuned model and the first of `others` with confidences agree on another
    label, each at least as sure as it is on average when it gives that label (the threshold of
    confident learning, Northcutt 2021). The rows must be unseen by both. Surest first.
    """
    second = next((rows for rows in others if all(r.confidence is not None for r in rows)), None)
    if second is None or any(row.confidence is None for row in tuned):
        return []
    other = {row.id: row for row in second}
    bars_tuned, bars_other = _usual_confidence(tuned), _usual_confidence(second)
    suspects = []
    for row in tuned:
        twin = other.get(row.id)
        if twin is None or is_right(row) or twin.prediction != row.prediction:
            continue
        sure, twin_sure = float(row.confidence or 0.0), float(twin.confidence or 0.0)
        answer = _answered(row)
        if sure >= bars_tuned[answer] and twin_sure >= bars_other[answer]:
            suspects.append((sure * twin_sure, row))
    suspects.sort(key=lambda pair: (-pair[0], pair[1].id))
    return [
        {
            "id": row.id,
            "place": (places or {}).get(row.id, ""),
            "input": _cut(row.input),
            "label": _plain(row.reference),
            "suggested": _plain(row.prediction),
            "confidence": row.confidence,
        }
        for _, row in suspects[:top]
    ]


def goodness(row: Prediction, task: str) -> float:
    """How right one answer is: 1 is right, 0 is wrong; for numbers minus the absolute error."""
    if task == "classify":
        return float(is_right(row))
    if task == "regress":
        try:
            return -abs(float(str(row.prediction)) - float(str(row.reference)))
        except ValueError:
            return -math.inf
    if task == "tag":
        found, true = span_set(row.prediction), span_set(row.reference)
        return 2 * len(found & true) / (len(found) + len(true)) if found or true else 1.0
    if task == "embed":
        return row.graded.get("ndcg@10", 0.0)
    if task == "continue":
        return -(row.nll_nats or 0.0) / max(row.num_bytes or 0, 1)
    if "reward" in row.graded:
        return row.graded["reward"]
    answer, references = answer_of(row).strip(), [text.strip() for text in references_of(row)]
    if answer in references:
        return 1.0
    return min(0.99, max(token_f1(answer, text) for text in references))


def _usual_confidence(predictions: Sequence[Prediction]) -> defaultdict[str, float]:
    """Mean confidence per given label; for rare ones the mean over all rows."""
    given: defaultdict[str, list[float]] = defaultdict(list)
    for row in predictions:
        given[_answered(row)].append(float(row.confidence or 0.0))
    overall = float(np.mean([value for values in given.values() for value in values]))
    usual: defaultdict[str, float] = defaultdict(lambda: overall)
    for label, values in given.items():
        if len(values) >= MIN_ROWS_FOR_CLASS_MEAN:
            usual[label] = float(np.mean(values))
    return usual


def _most_confused(pairs: Mapping[tuple[str, str], int], names: Sequence[str]) -> list[str]:
    errors: Counter[str] = Counter()
    for (true, answer), count in pairs.items():
        if true != answer:
            errors[true] += count
    kept = {name for name, _ in errors.most_common(MAX_CLASSES - 1)}
    return [*(name for name in names if name in kept), OTHER_LABELS]


def _answered(row: Prediction) -> str:
    return OTHER_ANSWER if row.prediction is None else ", ".join(label_set(row.prediction))


def _order(grade: float) -> float:
    """A grade that can be sorted and subtracted: what is not a number is the worst of all."""
    return grade if math.isfinite(grade) else -1e300


def _plain(output: Output) -> Any:
    if isinstance(output, str):
        return _cut(output)
    if isinstance(output, tuple):
        return [asdict(item) if isinstance(item, Span) else item for item in output]
    return output


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"
