"""How far judges agree with people on pandalm_pref: `python bench/judge.py`.

999 pairs of answers with the winner by majority of three annotators (ties included). Two judges:
TinyStories-656k asked in both orders, as the honest floor of a model that is no judge, and a reward
model (all-MiniLM-L6-v2) trained on half of the untied pairs and asked about the other half. Chance
and two rules of length stand beside. Writes results/judge.json; the bar is that every figure comes
with its interval and kappa, not that a tiny model judges well.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

from record import at_least, record

DATA = Path(os.environ.get("TUNEWRIGHT_DATA") or Path(__file__).parents[2] / "shared" / "data")
ASKED = 200


def read_rows() -> list[dict[str, str]]:
    """Prompt, both answers, and the people's winner: first, second or tie."""
    found = next(iter(sorted((DATA / "pandalm_pref").glob("*.json*"))))
    rows = []
    for row in json.loads(found.read_text(encoding="utf-8")):
        votes = [row.get(f"annotator{n}") for n in (1, 2, 3)]
        side = max((0, 1, 2), key=votes.count)
        if votes.count(side) < 2 or not all(
            str(row[k]).strip() for k in ("response1", "response2")
        ):
            continue
        prompt = row["instruction"] + ("\n" + row["input"] if row.get("input") else "")
        rows.append({"prompt": prompt, "a": str(row["response1"]), "b": str(row["response2"]),
                     "people": ("tie", "first", "second")[side]})  # fmt: skip
    return rows


def reward_judge(rows: list[dict[str, str]], folder: Path) -> str:
    """A reward model's run, trained on these rows."""
    from tunewright.config import make_recipe
    from tunewright.journal import Journal
    from tunewright.pipeline import train

    pairs = []
    for row in rows:
        sides = (row["a"], row["b"]) if row["people"] == "first" else (row["b"], row["a"])
        pairs.append({"prompt": row["prompt"], "chosen": sides[0], "rejected": sides[1]})
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, pairs)), encoding="utf-8")
    recipe = make_recipe({
        "objective": "reward", "task": "generate", "base_model": "embedded:minilm",
        "data": {"train": str(path), "validation": 0.15, "test": 0.05},
        "training": {"num_threads": 1, "num_epochs": 3, "max_length": 128,
                     "learning_rate": 5e-5, "batch_size": 16},
    })  # fmt: skip
    train(recipe, folder / "run", Journal())
    return str(folder / "run")


def main() -> None:
    from tunewright.aims import JudgeSection
    from tunewright.evaluate.judge import agreement
    from tunewright.judging import open_judge
    from tunewright.records import Example

    rows = read_rows()
    untied = [row for row in rows if row["people"] != "tie"]
    learned, held = untied[::2], untied[1::2]
    found = {}

    def ask(name: str, model: str, asked: list[dict[str, str]]) -> None:
        examples = [Example(str(n), "", row["prompt"], "") for n, row in enumerate(asked)]
        compare = open_judge(JudgeSection(model=model))
        winners = compare(examples, [r["a"] for r in asked], [r["b"] for r in asked])
        result = agreement(winners, [r["people"] for r in asked])
        found[name] = asdict(result)
        print(name, result.line, flush=True)

    ask("TinyStories-656k, prompted, ties included", str(DATA / "model-tinystories-656k"),
        rows[:ASKED])  # fmt: skip
    for rule, sign in (("longer", 1), ("shorter", -1)):
        picks = ["first" if sign * (len(r["a"]) - len(r["b"])) > 0 else "second" for r in held]
        found[rule] = asdict(agreement(picks, [r["people"] for r in held]))
    with tempfile.TemporaryDirectory() as place:
        ask("MiniLM reward model, held-out untied pairs", reward_judge(learned, Path(place)), held)
    measured = all("kappa" in item and "agree_ci95" in item for item in found.values())
    record("judge", [at_least("judges measured against people, with intervals (1 = yes)",
                              float(measured), 1.0)],
           "2 shared cores of an AMD EPYC with AVX512-BF16", {"agreement": found})  # fmt: skip


if __name__ == "__main__":
    main()
