"""nl_regex by meaning: do the answer and the truth match the same texts?

Reads the answers that `run_quality.py nl_regex` left. The placeholders of NL-RX stand for classes
and words; they are put in first, for `[<LET>]` is otherwise a class of five odd characters.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from record import at_least, record
from run_quality import WORK
from tunewright.evaluate.compare import compare
from tunewright.evaluate.saved import read_predictions
from tunewright.evaluate.score import score
from tunewright.records import Prediction

MEANS = {"<VOW>": "AEIOUaeiou", "<LET>": "A-Za-z", "<LOW>": "a-z", "<CAP>": "A-Z", "<NUM>": "0-9",
         "<M0>": "dog", "<M1>": "truck", "<M2>": "ring", "<M3>": "lake"}  # fmt: skip
HARDWARE = "2 shared cores of an AMD EPYC with AVX512-BF16"
METRIC = "regex_equal"


def spelled(text: object) -> str:
    out = str(text)
    for placeholder, meaning in MEANS.items():
        out = out.replace(placeholder, meaning)
    return out


def spell(rows: Sequence[Prediction]) -> list[Prediction]:
    return [
        replace(row, prediction=spelled(row.prediction), reference=spelled(row.reference),
                references=tuple(map(spelled, row.references)))
        for row in rows
    ]  # fmt: skip


def main() -> int:
    path = WORK / "nl-regex" / "predictions.jsonl"
    if not path.exists():
        print(f"{path}: missing; run `python bench/run_quality.py nl_regex` first")
        return 1
    answers = {system: spell(rows) for (system, split), rows in read_predictions(path).items()
               if split == "test"}  # fmt: skip
    scores = {name: score(rows, (METRIC, "exact_match"), labels=(), seed=17).metrics
              for name, rows in answers.items()}  # fmt: skip
    against = {name: compare(answers["tuned"], rows, METRIC, labels=(), seed=17)
               for name, rows in answers.items() if name != "tuned"}  # fmt: skip
    record("regex_meaning", [
        at_least("semantic equality better than base", against["base"].verdict == "better", 1),
        at_least("better than the nearest neighbour",
                 against["nearest_neighbour"].verdict == "better", 1),
    ], HARDWARE, {
        "scores": {name: {key: {"value": item.value, "ci95": item.ci95}
                          for key, item in found.items()} for name, found in scores.items()},
        "published": "58.2 %: Deep-Regex (Locascio et al. 2016), LSTM, whole test file, recalled",
    })  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
