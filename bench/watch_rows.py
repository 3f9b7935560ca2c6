"""Rows for the watch benchmarks: texts, labels and MiniLM embeddings, made once and kept outside.

banking77: train and test rows together, 13,083 of 77 classes. nlupp: its banking domain, which the
model knows, and its hotels domain, which it has never seen; rows carry several labels.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DATA = Path(os.environ.get("TUNEWRIGHT_DATA") or Path(__file__).parents[2] / "shared" / "data")
WORK = Path(tempfile.gettempdir()) / "tunewright-watch"
MAX_TOKENS = 128
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """n rows. labels: one tuple of labels a row. states_nH: unit length."""

    texts: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    states_nH: Floats

    def take(self, index: NDArray[np.intp]) -> Rows:
        return Rows(
            tuple(self.texts[i] for i in index),
            tuple(self.labels[i] for i in index),
            self.states_nH[index],
        )


def read_banking77() -> tuple[list[str], list[tuple[str, ...]]]:
    """(texts, labels) of both files."""
    texts, labels = [], []
    for name in ("train", "test"):
        with open(DATA / "banking77" / f"{name}.csv", encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                texts.append(row["text"].strip())
                labels.append((row["category"],))
    return texts, labels


def read_nlupp(domain: str) -> tuple[list[str], list[tuple[str, ...]]]:
    """(texts, labels) of one domain, all folds."""
    texts, labels = [], []
    for path in sorted((DATA / "nlupp" / domain).glob("fold*.json")):
        for row in json.loads(path.read_text(encoding="utf-8")):
            texts.append(row["text"].strip())
            labels.append(tuple(sorted(row.get("intents", ()))))
    return texts, labels


@lru_cache(maxsize=4)
def load(name: str) -> Rows:
    """banking77, nlupp-banking or nlupp-hotels, embedded at first use."""
    domain = name.partition("-")[2]
    texts, labels = read_nlupp(domain) if domain else read_banking77()
    return Rows(tuple(texts), tuple(labels), embed(texts))


def embed(texts: list[str]) -> Floats:
    """(n, H) unit vectors of the untuned embedded base; kept below the temporary folder."""
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
    path = WORK / f"minilm-{digest}.npy"
    if path.exists():
        return np.load(path, allow_pickle=False).astype(np.float64)
    from tunewright.evaluate.predict import hidden_means
    from tunewright.model.load import load_base

    states = hidden_means(load_base("embedded:minilm", task=None), texts, MAX_TOKENS)
    states /= np.linalg.norm(states, axis=1, keepdims=True)
    WORK.mkdir(parents=True, exist_ok=True)
    np.save(path, states.astype(np.float32), allow_pickle=False)
    return states.astype(np.float64)


if __name__ == "__main__":
    for each in ("banking77", "nlupp-banking", "nlupp-hotels"):
        rows = load(each)
        print(each, rows.states_nH.shape, len({i for row in rows.labels for i in row}))
