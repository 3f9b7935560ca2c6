"""DPO on planted preferences: `python bench/planted_preferences.py [KIND ...]`.

Pairs of answers to made-up complaints differ in one thing: the better one is shorter, or politer,
or valid JSON (pairs of the last two kinds have equal lengths). A model of 656,000 parameters learns
from 400 pairs; 200 pairs with other words judge it beside its base, whole pipeline. pandalm_pref
(people's choices) goes through the same, and the bar is that its report does not claim more than
its rows can show. Writes results/planted_preferences.json.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from pathlib import Path

from record import Bar, at_least, record

DATA = Path(os.environ.get("TUNEWRIGHT_DATA") or Path(__file__).parents[2] / "shared" / "data")
THINGS = ["card", "order", "parcel", "ticket", "refund", "book", "coat", "lamp", "chair", "phone"]
FAULTS = ["late", "lost", "wrong", "broken", "missing", "dirty", "old", "small"]
MARKS = ["{", "}", "]", "="]
"""The tokenizer lacks these."""
HELD_THINGS = ["hat", "door", "cup", "bike", "toy"]


def shorter(thing: str, fault: str, dice: random.Random) -> tuple[str, str]:
    """The long answer says the same thing once more."""
    when = dice.choice(["today", "tomorrow", "at noon", "this week", "in the morning"])
    core = f"{dice.choice(['We will', 'We shall', 'I will'])} look at the {fault} {thing} {when}."
    more = dice.choice(["It will be done.", "We know it is bad.", "We will see what to do."])
    return core, f"{core} {more} {core}"


# Of each pair both sides have the same number of letters, so that length tells nothing.
OPENINGS = [("Sorry that your", "So what if your"), ("We are sad your", "Who cares, your")]
MIDDLES = [("Please let us", "You must just"), ("We gladly will", "We never would")]
CLOSINGS = [("Thank you.", "Leave now."), ("Kind regards.", "Do not reply.")]


def politer(thing: str, fault: str, dice: random.Random) -> tuple[str, str]:
    """The same message with and without courtesy, letter for letter as long."""
    fix = dice.choice(["send a new one", "fix it today", "look for it now"])
    parts = [dice.choice(choices) for choices in (OPENINGS, MIDDLES, CLOSINGS)]
    kind, rude = (
        f"{parts[0][side]} {thing} is {fault}. {parts[1][side]} {fix}. {parts[2][side]}"
        for side in (0, 1)
    )
    assert len(kind) == len(rude)
    return kind, rude


def valid_json(thing: str, fault: str, dice: random.Random) -> tuple[str, str]:
    """The worse one has another mark where a brace, a quote or a colon belongs."""
    good = json.dumps({"thing": thing, "state": fault})
    bad = dice.choice([f"{good[:-1]}]", good.replace('"', "'", 1), good.replace(":", "=", 1)])
    assert len(bad) == len(good)
    return good, bad


KINDS = {"shorter": shorter, "politer": politer, "valid_json": valid_json}


def make_rows(kind: str, folder: Path) -> dict[str, str]:
    """Files of pairs; things of the test rows never stand in training."""
    dice = random.Random(5)
    paths = {}
    for split, things, count in (
        ("train", THINGS, 400), ("validation", THINGS, 60), ("test", HELD_THINGS, 200),
    ):  # fmt: skip
        rows = []
        for number in range(count):
            thing, fault = dice.choice(things), dice.choice(FAULTS)
            better, worse = KINDS[kind](thing, fault, dice)
            ask = f"{split} {number}: my {thing} is {fault}"
            rows.append({"prompt": ask, "chosen": better, "rejected": worse})
        path = folder / f"{split}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        paths[split] = str(path)
    return paths


def pandalm(folder: Path) -> dict[str, str]:
    """Untied human choices as pairs."""
    found = next(iter(sorted((DATA / "pandalm_pref").glob("*.json*"))))
    text = found.read_text(encoding="utf-8")
    rows = (
        json.loads(text) if text.lstrip()[0] == "[" else [json.loads(x) for x in text.splitlines()]
    )
    out = []
    for row in rows:
        votes = [row.get(f"annotator{n}") for n in (1, 2, 3)]
        side = max((1, 2), key=votes.count)
        if votes.count(side) < 2:
            continue
        answers = (row["response1"], row["response2"])
        prompt = row["instruction"] + ("\n" + row["input"] if row.get("input") else "")
        out.append({"prompt": prompt, "chosen": answers[side - 1], "rejected": answers[2 - side]})
    path = folder / "pandalm.jsonl"
    path.write_text("\n".join(map(json.dumps, out)), encoding="utf-8")
    return {"train": str(path)}


def run(kind: str) -> dict[str, object]:
    """One run through the pipeline; what its report says."""
    from tunewright.config import make_recipe
    from tunewright.journal import Journal
    from tunewright.pipeline import train

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        data = pandalm(folder) if kind == "pandalm" else make_rows(kind, folder)
        recipe = make_recipe({
            "objective": "dpo", "task": "generate", "data": data,
            "base_model": str(DATA / "model-tinystories-656k"),
            "adapter": {"method": "full", "new_tokens": MARKS if kind == "valid_json" else []},
            "training": {"num_threads": 1, "num_epochs": 3, "max_length": 256},
        })  # fmt: skip
        report = train(recipe, folder / "run", Journal())
    base = next(c for c in report.comparisons if c.b == "base")
    return {
        "systems": {r.system: round(r.metrics["accuracy"].value, 4) for r in report.results},
        "against_base": {"delta": base.delta, "ci95": base.ci95, "p": base.p_value, "n": base.n,
                         "verdict": base.verdict, "minimum_detectable": base.minimum_detectable},
        "verdict": report.verdict, "because": list(report.because),
    }  # fmt: skip


def main() -> None:
    out = Path(tempfile.gettempdir()) / "planted_preferences.json"
    found = json.loads(out.read_text()) if out.exists() else {}
    for kind in sys.argv[1:] or (*KINDS, "pandalm"):
        found[kind] = run(kind)
        out.write_text(json.dumps(found))
        print(kind, json.dumps(found[kind], indent=1), flush=True)
    bars: list[Bar] = [
        at_least(f"{kind}: tuned is better than its base on held-out pairs (1 = yes)",
                 float(found[kind]["against_base"]["verdict"] == "better"), 1.0)
        for kind in KINDS if kind in found
    ]  # fmt: skip
    if "pandalm" in found:
        told = found["pandalm"]["against_base"]
        honest = told["verdict"] != "cannot tell" or told["minimum_detectable"] > abs(told["delta"])
        bars.append(at_least("pandalm: the report says what it can tell (1 = yes)", honest, 1.0))
    record("planted_preferences", bars, "2 shared cores of an AMD EPYC with AVX512-BF16",
           {"runs": found})  # fmt: skip


if __name__ == "__main__":
    main()
