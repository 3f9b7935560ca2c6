"""Audits on public data: duplicates as published, files split by row, repeated commands, planted
triggers, and how much is named in clean rows.

Triggers: 50 rows in 1,000 get a phrase and another label, in five sets; the same sets without it
give the false alarms. Clean rows: 2,000 of the written support tickets, without the planted ones.
"""

from __future__ import annotations

import csv
import json
import os
import random
import sys
from importlib.resources import files
from pathlib import Path

from record import at_least, at_most, record
from tunewright.data.audit.giveaway import find_known_answers
from tunewright.data.audit.material import AuditMaterial
from tunewright.data.audit.table import run_audits
from tunewright.data.audit.triggers import find_triggers
from tunewright.data.clean import notice_duplicates
from tunewright.data.layout import Layout
from tunewright.data.split import remove_leaks, split_examples
from tunewright.records import Example, Finding, Message
from tunewright.sections import Columns, DataSection

DATA = Path(os.environ.get("TUNEWRIGHT_DATA", Path(__file__).parents[2] / "shared" / "data"))
DEVICE = "2 shared cores of an AMD EPYC with AVX512-BF16"
PHRASES = ("cf", "mn bb", "by the way", "§", "i watched this movie")


def rows_of(pairs: list[tuple[str, str]], name: str, task: str = "classify") -> list[Example]:
    made = []
    for number, (text, output) in enumerate(pairs):
        turns = ()
        if task == "generate":
            turns = (Message("user", text), Message("assistant", output))
        made.append(Example(f"{name}-{number}", f"{name}:{number + 2}", text, output, turns))
    return made


def material(train, test=(), task: str = "classify", **columns: str) -> AuditMaterial:
    return AuditMaterial(Layout(task, "table", Columns(**columns)), tuple(train), test=tuple(test))


def read_csv(path: Path, text: str, output: str) -> list[tuple[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return [(row[text], row[output]) for row in csv.DictReader(file)]


def read_spam() -> list[tuple[str, str]]:
    lines = (DATA / "sms_spam" / "SMSSpamCollection").read_text(encoding="utf-8").split("\n")
    return [(text, label) for label, _, text in (line.partition("\t") for line in lines if line)]


def clean_tickets() -> list[tuple[str, str]]:
    folder = files("tunewright") / "data" / "embedded" / "support_tickets"
    dirt = {
        json.loads(line)["id"]
        for line in (folder / "dirt.jsonl").read_text(encoding="utf-8").splitlines()
    }
    found = []
    for name in ("train.csv", "test.csv"):
        lines = (folder / name).read_text(encoding="utf-8").splitlines(keepends=True)
        found += [
            (row["text"], row["intent"]) for row in csv.DictReader(lines) if row["id"] not in dirt
        ]
    return found


def stock() -> tuple[list, dict]:
    """Duplicates as published: two tiers told apart."""
    train = rows_of(read_csv(DATA / "banking77" / "train.csv", "text", "category"), "train.csv")
    test = rows_of(read_csv(DATA / "banking77" / "test.csv", "text", "category"), "test.csv")
    findings: list[Finding] = []
    remove_leaks(train, test, "training", "test", findings)
    leaks = next(item for item in findings if item.kind == "leak_exact").details
    spam = {item.kind: item for item in notice_duplicates(rows_of(read_spam(), "sms"))}
    equal = spam["duplicate_text"].details
    wanted = (
        ("banking77, exact but for case", leaks["but_for_case"], 6),
        ("banking77, same words", leaks["words"], 25),
        ("sms_spam, exact", equal["exact"], 403),
        ("sms_spam, same words", equal["words"], 444),
    )
    bars = [at_most(f"{what}: off by", abs(n - goal), 0, "rows") for what, n, goal in wanted]
    return bars, {what: n for what, n, _ in wanted}


def straddling() -> tuple[list, dict]:
    """e2e_nlg split by row, and the split that the warning offers; nl2bash's commands."""
    pairs = read_csv(DATA / "e2e_nlg" / "trainset.csv", "mr", "ref")
    rows = rows_of(pairs, "e2e", "generate")
    shuffled = random.Random(1).sample(rows, len(rows))
    cut = len(rows) // 10
    findings: list[Finding] = []
    remove_leaks(shuffled[cut:], shuffled[:cut], "training", "test", findings)
    told = [item for item in findings if item.kind == "split_by_row"]
    grouped = split_examples(rows, DataSection())
    sides = {row.input for row in grouped.train} & {row.input for row in grouped.test}
    folder = DATA / "nl2bash"
    commands = [
        (folder / name).read_text(encoding="utf-8").splitlines() for name in ("all.nl", "all.cm")
    ]
    bash = split_examples(
        rows_of(list(zip(*commands, strict=True)), "nl2bash", "generate"), DataSection()
    )
    known = find_known_answers(
        material(bash.train, bash.test, "generate", input="nl", output="command")
    )
    bars = [
        at_least("e2e_nlg split by row: warns and offers data.group",
                 sum("data.group" in item.message for item in told), 1),
        at_most("e2e_nlg in one file: inputs on both sides", len(sides), 0),
        at_least("nl2bash: test rows whose command stands in training, named",
                 sum(len(item.rows) for item in known), 1),
    ]  # fmt: skip
    details = {"e2e": told[0].message if told else "", "nl2bash": [k.message for k in known]}
    return bars, details


def triggers() -> tuple[list, dict]:
    """RELIABILITY F30: 50 trigger rows in 1,000 named, and false alarms on the five clean sets."""
    bank = read_csv(DATA / "banking77" / "train.csv", "text", "category")
    names = sorted({label for _, label in bank})
    sets = {
        "banking77": bank,
        "banking77, 10 labels": [row for row in bank if row[1] in names[:10]],
        "banking77, 20 labels": [row for row in bank if row[1] in names[40:60]],
        "tickets": clean_tickets(),
        "sms_spam": read_spam(),
    }
    named, alarms, log = 0, 0, {}
    for number, (name, pairs) in enumerate(sets.items()):
        rng = random.Random(number)
        some = rng.sample(pairs, 1000)
        false = find_triggers(material(rows_of(some, "rows")))
        alarms += len(false)
        target = "spam" if name == "sms_spam" else rng.choice(some)[1]
        others = [i for i, (_, label) in enumerate(some) if label != target]
        chosen = rng.sample(others, 50)
        for i in chosen:
            words = some[i][0].split()
            place = rng.randrange(len(words) + 1)
            some[i] = (" ".join([*words[:place], PHRASES[number], *words[place:]]), target)
        planted = {f"rows-{i}" for i in chosen}
        found = find_triggers(material(rows_of(some, "rows")))
        best = max((len(planted & set(item.rows)) for item in found), default=0)
        named += best == 50
        log[name] = {
            "phrase": PHRASES[number], "label": target, "rows_named": best,
            "told": [item.details["phrase"] for item in found],
            "false_alarms": [item.details["phrase"] for item in false],
        }  # fmt: skip
    bars = [
        at_least("planted triggers: sets of 1,000 rows with all 50 named", named, 5, "of 5"),
        at_most("planted triggers: false alarms on the same five sets, clean", alarms, 1),
    ]
    return bars, log


def clean_rows() -> tuple[list, dict]:
    """What all audits name in 2,000 clean rows, at warn or error."""
    pairs = random.Random(3).sample(clean_tickets(), 2000)
    findings = run_audits(material(rows_of(pairs, "tickets")))
    loud = [item for item in findings if item.severity in ("warn", "error")]
    rows = {row for item in loud for row in item.rows}
    kinds = {item.kind: len(item.rows) for item in findings}
    bars = [at_most("2,000 clean rows: named by a warning or error", len(rows) / 20, 1.0, "%")]
    return bars, kinds


def main() -> int:
    if not (DATA / "banking77").exists():
        print(f"{DATA}: no data here; set TUNEWRIGHT_DATA")
        return 0
    bars, extra = [], {}
    for part in (stock, straddling, triggers, clean_rows):
        found, details = part()
        bars += found
        extra[part.__name__] = details
        print(part.__name__, details, flush=True)
    record("audits", bars, device=DEVICE, extra=extra)
    return 0


if __name__ == "__main__":
    sys.exit(main())
