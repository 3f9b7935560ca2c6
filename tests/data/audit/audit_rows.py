"""Rows and materials that tests of audits share; texts are drawn from a small made-up language."""

import random

from tunewright.data.audit.material import AuditMaterial
from tunewright.data.layout import Layout
from tunewright.records import Example
from tunewright.sections import Columns

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def make_words(count, seed=1):
    rng = random.Random(seed)
    return ["".join(rng.choices(LETTERS, k=rng.randint(3, 9))) for _ in range(count)]


def make_texts(count, words_each=12, seed=2, vocabulary=3000):
    rng = random.Random(seed)
    words = make_words(vocabulary)
    weights = [1 / (rank + 5) for rank in range(vocabulary)]
    return [" ".join(rng.choices(words, weights, k=words_each)) for _ in range(count)]


def make_rows(texts, labels=None, name="train.csv", **rest):
    outputs = labels or [None] * len(texts)
    return tuple(
        Example(f"{name}-{i}", f"{name}:{i + 2}", text, output, **rest)
        for i, (text, output) in enumerate(zip(texts, outputs, strict=True))
    )


def make_material(train, test=(), task="classify", **rest):
    labels = tuple(sorted({row.output for row in train if isinstance(row.output, str)}))
    return AuditMaterial(
        Layout(task, "table", Columns(), labels), tuple(train), test=tuple(test), **rest
    )
