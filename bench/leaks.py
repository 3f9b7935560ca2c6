"""Planted leaks on banking77: what is removed, what lands on the review list, and at what price.

500 test rows of banking77 are planted into its training file: 84 each exactly, with other case,
with other punctuation, with two typos, with a word dropped, and behind a greeting (the last kind
80). The price is the number of pairs that nobody planted. The curve goes over the threshold.
"""

from __future__ import annotations

import csv
import os
import random
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from record import at_least, at_most, record
from tunewright.data.audit.leaks import CLOSEST, near_leaks
from tunewright.data.audit.material import AuditMaterial
from tunewright.data.layout import Layout
from tunewright.data.split import split_examples
from tunewright.records import Example
from tunewright.sections import Columns, DataSection

DATA = Path(os.environ.get("TUNEWRIGHT_DATA", Path(__file__).parents[2] / "shared" / "data"))
LETTERS = "abcdefghijklmnopqrstuvwxyz"
GREETINGS = (
    "Hi, ", "Hello, ", "Hello there, ", "Hey, ", "Good morning, ", "Hi there! ", "Dear support, ",
    "Good afternoon. ", "Hey guys, ",
)  # fmt: skip


def typo(text: str, rng: random.Random) -> str:
    """A letter left out, put in, changed, or swapped with the next."""
    place = rng.choice([i for i, letter in enumerate(text) if letter.isalpha()])
    how = rng.randrange(4)
    if how == 0:
        return text[:place] + text[place + 1 :]
    if how == 1:
        return text[:place] + rng.choice(LETTERS) + text[place:]
    if how == 2:
        return text[:place] + rng.choice(LETTERS) + text[place + 1 :]
    return text[:place] + text[place : place + 2][::-1] + text[place + 2 :]


def other_case(text: str, rng: random.Random) -> str:
    return text.upper() if rng.random() < 0.5 else text.swapcase()


def other_punctuation(text: str, rng: random.Random) -> str:
    bare = text.rstrip("?.! ")
    return bare + rng.choice(["", " ...", "!!", " ?!"]) if rng.random() < 0.5 else f"- {bare};"


def drop_word(text: str, rng: random.Random) -> str:
    words = text.split()
    place = rng.randrange(len(words))
    return " ".join(words[:place] + words[place + 1 :])


KINDS = {
    "exact": lambda text, rng: text,
    "case": other_case,
    "punctuation": other_punctuation,
    "two typos": lambda text, rng: typo(typo(text, rng), rng),
    "dropped word": drop_word,
    "greeting": lambda text, rng: rng.choice(GREETINGS) + text,
}


def read(name: str) -> list[Example]:
    with open(DATA / "banking77" / name, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        Example(f"{name}-{i}", f"{name}:{i + 2}", row["text"], row["category"])
        for i, row in enumerate(rows)
    ]


def play(seed: int) -> tuple[dict[str, float], list[dict[str, float]], int]:
    """(recall by kind at the default, the curve, organic pairs at the default)."""
    rng = random.Random(seed)
    train, test = read("train.csv"), read("test.csv")
    picks = rng.sample([row for row in test if len(row.input.split()) >= 3], 500)
    planted = {}
    for number, row in enumerate(picks):
        kind = list(KINDS)[number % len(KINDS)]
        text = KINDS[kind](row.input, rng)
        planted[f"planted-{number}"] = (kind, row.id)
        train.append(Example(f"planted-{number}", f"planted:{number}", text, row.output))
    splits = split_examples(train, DataSection(validation=0.0), test=test)
    removed = {row for item in splits.findings if item.dropped for row in item.rows}
    material = AuditMaterial(Layout("classify", "table", Columns()), splits.train, test=splits.test)
    pairs = near_leaks(material, "test", closest=0.3)
    totals = Counter(kind for kind, _ in planted.values())
    curve = []
    for closest in (0.8, 0.75, 0.7, 0.65, 0.6, CLOSEST, 0.5, 0.45, 0.4, 0.35, 0.3):
        listed = {(row.id, held.id) for row, held, score in pairs if score >= closest}
        found = Counter(
            kind
            for name, (kind, held) in planted.items()
            if name in removed or (name, held) in listed
        )
        organic = sum(1 for row, _ in listed if row not in planted)
        shares = {kind: round(found[kind] / totals[kind], 4) for kind in KINDS}
        curve.append({"closest": closest, "organic_pairs": organic, **shares})
    at_default = next(point for point in curve if point["closest"] == CLOSEST)
    return {kind: at_default[kind] for kind in KINDS}, curve, int(at_default["organic_pairs"])


def main() -> int:
    if not (DATA / "banking77").exists():
        print(f"{DATA}: no banking77 here; set TUNEWRIGHT_DATA")
        return 0
    seeds = (101, 102, 103)
    plays = [play(seed) for seed in seeds]
    recall = {kind: float(np.mean([recall[kind] for recall, _, _ in plays])) for kind in KINDS}
    bars = [
        *(at_least(f"planted leaks, {kind}: removed", recall[kind], 1.0)
          for kind in ("exact", "case", "punctuation")),
        *(at_least(f"planted leaks, {kind}: on the review list", recall[kind], 0.8)
          for kind in ("two typos", "dropped word", "greeting")),
        at_most("organic pairs at the default", max(pairs for _, _, pairs in plays), 499),
    ]  # fmt: skip
    extra = {"seeds": seeds, "curve": [curve for _, curve, _ in plays]}
    record("leaks", bars, device="2 shared cores of an AMD EPYC with AVX512-BF16", extra=extra)
    return 0


if __name__ == "__main__":
    sys.exit(main())
