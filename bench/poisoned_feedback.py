"""One client flips labels: is that client singled out, and does the gate keep out what it would do?

`python bench/poisoned_feedback.py [--quick]`. banking77: a real tune of the embedded base on 16
intents; feedback comes from ten honest clients, who err in 3 % of their labels, and a liar who
gives 20 % of all corrections. Two kinds of liar: one that flips every label, and one that flips a
fifth of its own and is right else. 300 streams of feedback on the model's real answers each.

The gate: the same model is tuned again on feedback without client names, so that nobody can be
singled out. `random`: the liar's labels are any other. `aimed`: the liar calls all requests of two
intents by a third one's name. Then with names: the liar is left out, and the model may be let in.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from record import at_least, at_most, record
from tunewright.asking import open_asker
from tunewright.config import make_recipe
from tunewright.journal import silence
from tunewright.lifecycle import plan_retune, retune
from tunewright.pipeline import train
from tunewright.records import Prediction, Request
from tunewright.store import RunFolder, to_plain, write_jsonl
from tunewright.training_set import find_suspects, row_of

DATA = Path(os.environ.get("TUNEWRIGHT_DATA") or Path(__file__).parents[2] / "shared" / "data")
WORK = Path(tempfile.gettempdir()) / "tunewright-poison"
HARDWARE = "2 shared cores of an AMD EPYC with AVX512-BF16, one thread"
QUICK = "--quick" in sys.argv
STREAMS = 50 if QUICK else 300
ROWS = 500
LIES = 0.2
HONEST_ERRORS = 0.03
NUM_HONEST = 10
KNOWN = 16
FRESH = 2
Rng = np.random.Generator


def read_rows(seed: int = 17) -> tuple[list[tuple[str, str]], list[tuple[str, str]], list[str]]:
    """(rows to train on, rows of traffic with two intents more, the known intents)."""
    rows: dict[str, list[str]] = {}
    with open(DATA / "banking77" / "train.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["category"], []).append(row["text"].strip())
    rng = np.random.default_rng(seed)
    names = sorted(name for name in rows if len(rows[name]) >= 120)
    chosen = [names[i] for i in rng.permutation(len(names))[: KNOWN + FRESH]]
    known, fresh = chosen[:KNOWN], chosen[KNOWN:]
    taught = [(text, name) for name in known for text in rows[name][:80]]
    traffic = [(text, name) for name in known for text in rows[name][80:]]
    traffic += [(text, name) for name in fresh for text in rows[name]]
    return taught, traffic, known


def tune_first(taught: Sequence[tuple[str, str]]) -> Path:
    run = WORK / "first"
    if RunFolder(run).report_json.exists():
        return run
    shutil.rmtree(run, ignore_errors=True)
    WORK.mkdir(parents=True, exist_ok=True)
    write_jsonl(WORK / "taught.jsonl", [{"input": t, "label": c} for t, c in taught])
    recipe = make_recipe({
        "base_model": "embedded:minilm",
        "data": {"train": str(WORK / "taught.jsonl"), "validation": 0.1, "test": 0.3,
                 "columns": {"input": "input", "output": "label"}},
        "training": {"num_threads": 1, "seed": 17},
        "evaluation": {"baselines": []},
    })  # fmt: skip
    train(recipe, run, silence())
    return run


def feedback(
    answered: Sequence[tuple[Request, Prediction]], rng: Rng, names: Sequence[str], *, lies: float
) -> tuple[list[Request], list[Prediction]]:
    """ROWS labelled requests: a fifth from the liar, who flips a share `lies` of its labels."""
    requests, answers = [], []
    for number, index in enumerate(rng.permutation(len(answered))[:ROWS]):
        request, answer = answered[int(index)]
        liar = number < LIES * ROWS
        client = "liar" if liar else f"client {rng.integers(NUM_HONEST)}"
        label, flips = str(request.label), lies if liar else HONEST_ERRORS
        if rng.random() < flips:
            label = str(rng.choice([name for name in names if name != label]))
        requests.append(replace(request, label=label, label_by="person", client=client))
        answers.append(replace(answer, reference=label))
    return requests, answers


def aimed(requests: Sequence[Request], pool: Sequence[Request], names: Sequence[str], rng: Rng
          ) -> list[Request]:  # fmt: skip
    """The liar calls every request of two intents by a third one's name."""
    victims, instead = set(names[:2]), names[2]
    honest = [r for r in requests if r.client != "liar"]
    told = [r for r in pool if r.label in victims]
    few = [told[i] for i in rng.permutation(len(told))[: int(LIES * ROWS)]]
    lies = [replace(r, label=instead, label_by="person", client="liar") for r in few]
    return [*[r for r in honest if r.id not in {lie.id for lie in lies}], *lies]


def tune_again(
    first: Path, requests: Sequence[Request], name: str, *, named: bool
) -> dict[str, Any]:
    """The gate's verdict on a model tuned again with this feedback."""
    run, rows = WORK / name, WORK / f"{name}.jsonl"
    shutil.rmtree(run, ignore_errors=True)
    shutil.rmtree(WORK / f"{name}-data", ignore_errors=True)
    plain = [to_plain(r if named else replace(r, client=None)) for r in requests]
    write_jsonl(rows, [{k: v for k, v in line.items() if v is not None} for line in plain])
    how = ["retune.holdout=0.2", "retune.margin=0.05", "retune.strategy=continue"]
    plan, asker = plan_retune(RunFolder(first), rows, silence(), how)
    update = retune(plan, asker, run, silence())
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    return {
        "suspects": [client for client, *_ in plan.rows.clients],
        "left_out": plan.rows.left_out, "promoted": update.promoted,
        "because": update.because, "new_task": update.new_task,
        "old_task": [(t.name, t.n, t.old, t.new) for t in update.gate.tasks],
    }  # fmt: skip


def main() -> None:
    taught, traffic, known = read_rows()
    first = tune_first(taught)
    asker = open_asker(str(first))
    pool = [Request(f"t{n}", float(n), text, label=label)
            for n, (text, label) in enumerate(traffic)]  # fmt: skip
    said = asker.predict([row_of(r) for r in pool], system="tuned", split="traffic")
    answered = [
        (replace(r, answer=p.prediction, confidence=p.confidence), p)
        for r, p in zip(pool, said, strict=True)
    ]
    names = sorted({label for _, label in traffic})
    found: dict[str, Counter[str]] = {}
    for kind, lies in (("all", 1.0), ("fifth", 0.2), ("none", HONEST_ERRORS)):
        found[kind] = Counter()
        for seed in range(STREAMS):
            requests, answers = feedback(answered, np.random.default_rng(seed), names, lies=lies)
            suspects = [name for name, *_ in find_suspects(requests, answers, known)]
            found[kind]["liar"] += "liar" in suspects
            found[kind]["innocent"] += any(name != "liar" for name in suspects)
    shares = {kind: {k: v / STREAMS for k, v in counts.items()} for kind, counts in found.items()}
    print(shares)
    rng = np.random.default_rng(0)
    honest, _ = feedback(answered, rng, names, lies=HONEST_ERRORS)
    lying, _ = feedback(answered, np.random.default_rng(0), names, lies=1.0)
    attack = aimed(honest, [r for r, _ in answered], known, rng)
    gates = {
        "honest": tune_again(first, honest, "honest", named=True),
        "aimed, without names": tune_again(first, attack, "aimed-bare", named=False),
        "aimed": tune_again(first, attack, "aimed", named=True),
        "random, without names": tune_again(first, lying, "random-bare", named=False),
        "random": tune_again(first, lying, "random", named=True),
    }
    print(json.dumps(to_plain(gates), indent=1))
    bars = [
        at_least("a client with 20 % of all corrections, all flipped, is singled out",
                 100 * shares["all"]["liar"], 95.0, "%"),
        at_most("streams in which an honest client is accused",
                100 * max(s["innocent"] for s in shares.values()), 1.0, "%"),
        at_most("bad models of an aimed attack without client names that pass the gate",
                float(gates["aimed, without names"]["promoted"]), 0.0),
        at_least("with names the liar's labels are left out, and the model passes",
                 float(gates["aimed"]["promoted"] and gates["aimed"]["suspects"] == ["liar"]), 1.0),
    ]  # fmt: skip
    if QUICK:
        print(bars)
        return
    record("poisoned_feedback", bars, HARDWARE,
           {"method": __doc__, "singled_out": shares, "gates": to_plain(gates)})  # fmt: skip


if __name__ == "__main__":
    main()
