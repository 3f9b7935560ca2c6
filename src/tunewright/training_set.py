"""The next training set: old rows that are learned again, new rows with who labelled them, and rows
that judge and are never trained on. Kept as files that any later training can read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.data.clean import plain_words
from tunewright.data.prepare import Prepared
from tunewright.data.replay import choose_replay, is_held_out
from tunewright.errors import DataError
from tunewright.metrics.labels import is_right
from tunewright.monitor.outcomes import suspicious_clients
from tunewright.records import Example, Output, Prediction, Request
from tunewright.sections import RetuneSection
from tunewright.store import RunFolder, read_json, read_jsonl, write_jsonl

SEED = 17
VALIDATION_SEED = 18
VALIDATION_SHARE = 0.1
SURE = 0.9
CONTINUE_SHARE = 0.1
OLD = "first"
POOL = "pool.jsonl"
"""In the folder of a run that came of a retune: every row that it or one before it may learn from,
those that its replay left out too.
"""


@dataclass(frozen=True, slots=True)
class NewRow:
    """A labelled request: the row, who labelled it, for whom it was asked."""

    example: Example
    by: str
    client: str | None


@dataclass(frozen=True)
class TrainingSet:
    """What the next model learns from and is judged on. tasks: name to rows that judge it; the last
    is the new one. left_out: why rows were not taken, and how many. pool: every row that a later
    training may learn from, the old ones and the new. classes: rows have one label each.
    """

    old: tuple[Example, ...]
    new: tuple[NewRow, ...]
    validation: tuple[Example, ...]
    tasks: dict[str, tuple[Example, ...]]
    left_out: dict[str, int]
    clients: tuple[tuple[str, float, float, int], ...]
    old_rows: int
    pool: tuple[Example, ...] = ()
    classes: bool = False


def row_of(request: Request) -> Example:
    """A labelled request as a row to learn from."""
    return Example(id=request.id, place="traffic", input=request.input, output=request.label)


def build_set(
    folder: RunFolder,
    prepared: Prepared,
    requests: Sequence[Request],
    answers: Sequence[Prediction],
    how: RetuneSection,
) -> TrainingSet:
    """Sorts new rows: suspect clients, texts that judge, model-made labels beyond their cap, the
    stream that is never trained; and chooses old rows.
    """
    left_out: Counter[str] = Counter()
    sides = prepared.splits
    old = read_pool(folder) or tuple(sides.train)
    known = {row.output for row in old} if prepared.layout.task == "classify" else None
    clients = find_suspects(requests, answers, known)
    suspect = {name for name, *_ in clients}
    judging = {plain_words(row.input) for row in (*sides.validation, *sides.test)}
    looks = VALIDATION_SHARE if sides.validation else 0.0
    people: list[NewRow] = []
    made: list[NewRow] = []
    held: list[Example] = []
    validation = list(sides.validation)
    seen: set[str] = set()
    for request in requests:
        row, words = row_of(request), plain_words(request.input)
        if request.client in suspect:
            left_out["labels of a suspect client"] += 1
        elif words in judging:
            left_out["text judges already"] += 1
        elif words in seen:
            left_out["text repeated"] += 1
        elif is_held_out(row, how.holdout) and request.label_by != "model":
            held.append(row)
        elif is_held_out(row, looks, seed=VALIDATION_SEED) and request.label_by != "model":
            validation.append(row)  # weights are chosen by what is new as well
        else:
            by = request.label_by or "person"
            (made if by == "model" else people).append(NewRow(row, by, request.client))
        seen.add(words)
    most = int(how.model_labels * len(people) / max(1 - how.model_labels, 1e-9))
    left_out["model-made labels beyond the cap"] += max(0, len(made) - most)
    share = how.replay
    if share == "auto":
        share = 1.0 if how.strategy == "base" else CONTINUE_SHARE
    tasks = {name: rows for name, rows in _old_tasks(folder, sides.test).items() if rows}
    tasks[f"update {len(tasks)}"] = tuple(held)
    return TrainingSet(
        old=tuple(choose_replay(old, share, seed=SEED)),
        new=(*people, *made[:most]),
        validation=tuple(validation),
        tasks=tasks,
        left_out={name: count for name, count in left_out.items() if count},
        clients=tuple(clients),
        old_rows=len(old),
        pool=(*old, *(row.example for row in (*people, *made[:most]))),
        classes=known is not None,
    )


def read_pool(folder: RunFolder) -> tuple[Example, ...]:
    """All rows that this run's model may have learned from, those of earlier updates too; empty
    where the run did not come of a retune.
    """
    path = folder.path / POOL
    return tuple(
        Example(id=f"pool-{n}", place=f"{path}:{n + 1}", input=line["input"],
                output=line["output"], weight=float(line.get("weight", 1.0)))
        for n, line in enumerate(read_jsonl(path))
    )  # fmt: skip


def write_pool(rows: Sequence[Example], folder: RunFolder) -> None:
    """Keep the pool in the new run."""
    write_jsonl(folder.path / POOL, [
        {"input": r.input, "output": r.output, **({} if r.weight == 1 else {"weight": r.weight})}
        for r in rows
    ])  # fmt: skip


def find_suspects(
    requests: Sequence[Request], answers: Sequence[Prediction], known: Collection[Output] | None
) -> list[tuple[str, float, float, int]]:
    """Clients whose labels contradict sure answers of the present model as no others' do.

    known: labels that the model has; another label is no contradiction, for who asks about
    something new is right to say so. Answers without a confidence, as hosted models give, count.
    """
    sure = [
        number
        for number, answer in enumerate(answers)
        if (answer.confidence is None or answer.confidence >= SURE)
        and (known is None or requests[number].label in known)
    ]
    wrong = np.array([1.0 - float(is_right(answers[i])) for i in sure])
    return suspicious_clients([requests[i].client for i in sure], wrong)


def _old_tasks(folder: RunFolder, test: Sequence[Example]) -> dict[str, tuple[Example, ...]]:
    """The rows that judge, by task; runs that came of a retune keep theirs in lineage.json."""
    path = folder.path / "lineage.json"
    if not path.exists():
        return {OLD: tuple(test)}
    owners = {str(text): str(name) for text, name in read_json(path)["judges"].items()}
    tasks: dict[str, list[Example]] = {}
    for row in test:
        tasks.setdefault(owners.get(plain_words(row.input), OLD), []).append(row)
    return {name: tuple(rows) for name, rows in tasks.items()}


def write_set(rows: TrainingSet, data: Path) -> dict[str, Any]:
    """The files of the next training; returns the recipe's values that read them."""
    data.mkdir(parents=True, exist_ok=True)
    weight = class_weights(rows)
    old = [_line(row, "old", weight.get(str(row.output))) for row in rows.old]
    new = [_line(row.example, f"new, by {row.by}") for row in rows.new]
    write_jsonl(data / "train.jsonl", [*old, *new])
    write_jsonl(data / "validation.jsonl", [_line(row, "judges") for row in rows.validation])
    write_jsonl(data / "test.jsonl", [
        _line(row, name) for name, task in rows.tasks.items() for row in task
    ])  # fmt: skip
    weighted = any("weight" in line for line in (*old, *new))
    columns = {"input": "input", "output": "output", **({"weight": "weight"} if weighted else {})}
    return {
        **({"training.weighting": "logits"} if weight else {}),
        "data.train": str(data / "train.jsonl"),
        "data.validation": str(data / "validation.jsonl") if rows.validation else 0.1,
        "data.test": str(data / "test.jsonl"),
        "data.columns": columns,
        "data.format": "jsonl",
        "data.group": None,
        "data.label_separator": None,
        "data.max_rows": None,
    }


def write_old(rows: TrainingSet, data: Path) -> Path:
    """The chosen old rows by themselves, for strategies that look at what the old model knows."""
    path = data / "old.jsonl"
    write_jsonl(path, [_line(row, "old") for row in rows.old])
    return path


def class_weights(rows: TrainingSet) -> dict[str, float]:
    """By class, how many old rows each of the replayed ones stands for; empty where none were left
    out, or where rows have no classes.
    """
    if not rows.classes or len(rows.old) == rows.old_rows:
        return {}
    all_old = Counter(str(row.output) for row in rows.pool[: rows.old_rows])
    chosen = Counter(str(row.output) for row in rows.old)
    return {label: all_old[label] / count for label, count in chosen.items()}


def _line(row: Example, origin: str, stands_for: float | None = None) -> dict[str, Any]:
    if row.columns or not isinstance(row.output, str):
        raise DataError(
            f"{row.place}: rows with side columns or several labels cannot be tuned again yet"
        )
    line = {"input": row.input, "output": row.output, "origin": origin}
    weight = row.weight * (stands_for or 1.0)
    return line if weight == 1.0 else {**line, "weight": round(weight, 6)}
