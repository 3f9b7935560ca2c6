"""`check --select` and `--label-next` on banking77: chosen rows against as many random ones.

The trial that the command shows judges with discriminant analysis. Here the same choices are judged
again on the published test file by another learner, the head that `train` starts from (penalised
logistic regression on frozen features), and the two verdicts are laid side by side: once for the
rows as published, once with a tenth of the labels flipped. `--label-next` plays rounds: 154 rows
have a label, 100 more are asked for at a time. A choice that is random itself must not be called
better. `--embeddings FILE` keeps the vectors between runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.stats import t as student

from label_errors import DATA, DEVICE, embed_all, flip, product_head, read
from record import at_least, at_most, record
from tunewright.data.audit.choose import Chosen, rank_unlabelled, select_subset
from tunewright.data.audit.folds import label_numbers
from tunewright.data.audit.material import AuditMaterial
from tunewright.data.audit.trial import classify_score, run_trial
from tunewright.data.layout import Layout
from tunewright.records import Example
from tunewright.sections import Columns

SIZES = (770, 3000)
ROUNDS, ASKED = 5, 100


class Data:
    """banking77 with vectors; rows are made anew where labels are flipped."""

    def __init__(self, vectors: Path | None) -> None:
        train, test = read("train.csv"), read("test.csv")
        self.table = embed_all([row.input for row in train + test], vectors).astype(np.float64)
        self.train, self.test = train, test
        self.true, self.names = label_numbers(train)
        index = {name: number for number, name in enumerate(self.names)}
        self.test_true = np.array([index[str(row.output)] for row in test])
        self.by_text = {row.input: n for n, row in enumerate(train + test)}

    def embed(self, texts):
        return self.table[[self.by_text[text] for text in texts]].astype(np.float32)

    def material(self, rows: list[Example], test: list[Example], seed: int) -> AuditMaterial:
        layout = Layout("classify", "table", Columns(), tuple(self.names))
        return AuditMaterial(layout, tuple(rows), test=tuple(test), embed=self.embed, seed=seed)

    def rows(self, labels: np.ndarray) -> list[Example]:
        return [
            Example(row.id, row.place, row.input, self.names[k])
            for row, k in zip(self.train, labels, strict=True)
        ]

    def reach(self, numbers: np.ndarray, labels: np.ndarray) -> float:
        """Accuracy on the test file of the head learned from these rows."""
        known, asked = self.table[numbers], self.table[len(self.train) :]
        scores = product_head(known, labels[numbers], asked, len(self.names))
        return float((scores.argmax(axis=1) == self.test_true).mean())


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval of repeats (Student)."""
    mean = float(np.mean(values))
    half = float(np.std(values, ddof=1) / len(values) ** 0.5 * student.ppf(0.975, len(values) - 1))
    return mean, mean - half, mean + half


def number_of(chosen: Chosen, data: Data) -> np.ndarray:
    at = {row.id: n for n, row in enumerate(data.train)}
    return np.array([at[row.id] for row in chosen.rows])


def play_select(data: Data, size: int, noisy: bool, draws: int) -> dict:
    labels = flip(data.true, "uniform", data.true, 31) if noisy else data.true
    chosen = select_subset(data.material(data.rows(labels), data.test, 17), most=size)
    mine = data.reach(number_of(chosen, data), labels)
    rng = np.random.default_rng(5)
    theirs = [
        data.reach(rng.choice(len(labels), size, replace=False), labels) for _ in range(draws)
    ]
    delta, low, high = interval([mine - score for score in theirs])
    trial = chosen.trial
    assert trial is not None
    found = {
        "rows": size, "flipped": 0.1 if noisy else 0.0, "message": chosen.message,
        "trial_delta": trial.delta, "trial_ci95": list(trial.ci95), "verdict": trial.verdict,
        "head_chosen": mine, "head_random": float(np.mean(theirs)), "head_delta": delta,
        "head_ci95": [low, high],
    }  # fmt: skip
    print(found, flush=True)
    return found


def play_label_next(data: Data, seed: int) -> list[dict[str, float]]:
    """Accuracy by the number of labels that are known, asked for and drawn at random."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(data.true))
    start = np.concatenate([order[data.true[order] == k][:2] for k in range(len(data.names))])
    asked, drawn, found = start, start, []
    for turn in range(ROUNDS):
        rest = np.setdiff1d(np.arange(len(data.true)), asked)
        rows = data.rows(data.true)
        material = data.material([rows[i] for i in asked], [], seed + turn)
        chosen = rank_unlabelled(material, [rows[i] for i in rest], most=ASKED, repeats=2)
        asked = np.concatenate([asked, number_of(chosen, data)])
        others = np.setdiff1d(np.arange(len(data.true)), drawn)
        drawn = np.concatenate([drawn, rng.choice(others, ASKED, replace=False)])
        found.append(
            {"labels": len(asked), "asked": data.reach(asked, data.true),
             "random": data.reach(drawn, data.true)}
        )  # fmt: skip
    print(seed, found, flush=True)
    return found


def false_verdicts(data: Data, trials: int) -> float:
    """Share of trials in which a random choice is called better than a random choice."""
    learn = classify_score(data.table, np.concatenate([data.true, data.test_true]), 77)
    num = len(data.train)
    judged = np.arange(num, len(data.table))
    better = 0
    for trial in range(trials):
        rng = np.random.default_rng([trial, 9])

        def choose(pool: np.ndarray, repeat: int, draw: Callable = rng.choice) -> np.ndarray:
            return draw(pool, 770, replace=False)

        result = run_trial(choose, learn, len(data.table), 770, judged=judged, seed=trial)
        better += result.verdict == "better than random"
    return better / trials


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--embeddings", type=Path)
    parser.add_argument("--quick", action="store_true")
    wish = parser.parse_args()
    if not (DATA / "banking77").exists():
        print(f"{DATA}: no banking77 here; set TUNEWRIGHT_DATA")
        return 0
    data = Data(wish.embeddings)
    cases = [(770, False)] if wish.quick else [(s, n) for n in (False, True) for s in SIZES]
    draws, seeds, trials = (3, 2, 3) if wish.quick else (10, 10, 20)
    selected = [play_select(data, size, noisy, draws) for size, noisy in cases]
    turns = [play_label_next(data, seed) for seed in range(seeds)]
    gains = [run[-1]["asked"] - run[-1]["random"] for run in turns]
    gain, low, high = interval(gains)
    false = false_verdicts(data, trials)
    agree = sum(
        (item["verdict"] == "better than random") == (item["head_ci95"][0] > 0) for item in selected
    )
    last = turns[0][-1]["labels"]
    bars = [
        at_least("select: verdict of the trial agrees with another learner on the test file",
                 agree / len(selected), 1.0),
        at_most("select: random rows called better than random", false, 0.05),
        at_least(f"label-next: accuracy at {last} labels above random's, lower end of 95 %",
                 100 * low, 0.0, "points"),
    ]  # fmt: skip
    extra = {
        "select": selected,
        "label_next": {"gain_points": 100 * gain, "ci95": [100 * low, 100 * high], "runs": turns},
    }
    if wish.quick:
        print(bars, extra["label_next"]["gain_points"])
    else:
        record("choose_rows", bars, device=DEVICE, extra=extra)
    return 0


if __name__ == "__main__":
    sys.exit(main())
