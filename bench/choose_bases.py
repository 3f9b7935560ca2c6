"""`choose` among five made bases on real rows, against the truth: each of them trained whole.

The bases: the embedded MiniLM, its truncations to 2 and 4 layers, one with random weights, and a
tiny Llama. 1,200 rows of banking77 (16 a class) and 800 of sms_spam, three passes, judged on 800:
trainings on all rows were beyond this machine. The choice is the product's own, on the same rows.

    python bench/choose_bases.py banking77-few choose      the choice alone
    python bench/choose_bases.py                            both, with whole trainings; recorded
"""

from __future__ import annotations

import json
import sys

from record import at_least, at_most, record
from trainings import BASES, SEED, WORK, base_path, measured, set_values, train
from tunewright.choosing import choose_base, document_of, winner_of
from tunewright.config import make_recipe
from tunewright.journal import ConsoleJournal

HARDWARE = "2 shared cores of an AMD EPYC with AVX512-BF16, one thread"
SETS = ("banking77-few", "sms_spam")


def choice(data: str) -> dict[str, object]:
    names = {base_path(name): name for name in BASES}
    values = {**set_values(data), "base_model": list(names)}
    values["data"] = {**values["data"], "split_seed": SEED}
    folder = WORK / f"choose-{data}"
    report = choose_base(make_recipe(values), folder, ConsoleJournal(), live=False)
    document = document_of(report)
    winner = names[winner_of(report) or ""]
    kept = ("expected", "fate", "probe", "band90")
    rows = {names[row["name"]]: {key: row[key] for key in kept} for row in document["candidates"]}
    return {"winner": winner, "spent": document["spent"], "candidates": rows,
            "expected_regret": document["expected_regret"]}  # fmt: skip


def main(words: tuple[str, ...]) -> None:
    for data in [name for name in words if name in SETS] or SETS:
        path = WORK / f"choice-{data}.json"
        if not path.exists() and "record" not in words:
            path.write_text(json.dumps(choice(data)))
        for base in () if {"choose", "record"} & set(words) else BASES:
            train(base, data, 1.0, "full")
    if "choose" not in words:
        save()


def save() -> None:
    known = measured()
    bars, extra = [], {}
    for data in SETS:
        keys = {name: f"{data} {name} 1/1 full" for name in BASES}
        truth = {name: known[key].value for name, key in keys.items() if key in known}
        path = WORK / f"choice-{data}.json"
        if len(truth) < 3 or not path.exists():
            continue
        made = json.loads(path.read_text())
        short = 100 * (max(truth.values()) - truth[made["winner"]])
        bars += [
            at_most(f"{data}: below the truly best", short, 0.5, "points"),
            at_least(f"{data}: the random one is not chosen", made["winner"] != "random", 1),
        ]
        extra[data] = {**made, "truth": truth}
    bars.append(at_least("sets measured", len(extra), len(SETS)))
    bars.append(at_least("bases measured whole", min(len(e["truth"]) for e in extra.values()), 5))
    record("choose_bases", bars, HARDWARE, extra)


if __name__ == "__main__":
    main(tuple(sys.argv[1:]))
