"""Rows for benchmarks of speed: prompts and answers of realistic length, any number of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

SYLLABLES = [
    "ka",
    "lo",
    "mi",
    "re",
    "tu",
    "sa",
    "ne",
    "vo",
    "pi",
    "da",
    "he",
    "ri",
    "an",
    "el",
    "or",
    "us",
]


def make_words(count: int = 5000, seed: int = 3) -> list[str]:
    """Made-up words; common ones are short, as in a language."""
    stream = np.random.default_rng(seed)
    return ["".join(stream.choice(SYLLABLES, 1 + i * 4 // count)) + (str(i) if i > 999 else "")
            for i in range(count)]  # fmt: skip


def iterate_rows(count: int, seed: int = 5) -> Iterator[dict[str, str]]:
    """{"prompt", "completion"}: lengths are log-normal, the prompt about two thirds of a row."""
    words = np.array(make_words())
    stream = np.random.default_rng(seed)
    done = 0
    while done < count:
        size = min(10_000, count - done)
        total = np.clip(stream.lognormal(np.log(22), 0.6, size), 6, 150).astype(int)
        picks = np.minimum(stream.zipf(1.3, int(total.sum())) - 1, len(words) - 1)
        at = 0
        for number, length in enumerate(total):
            text = words[picks[at : at + length]]
            at += length
            cut = max(1, int(length * 0.65))
            prompt = f"{' '.join(text[:cut])} ({done + number})"
            yield {"prompt": prompt, "completion": " ".join(text[cut:])}
        done += size


def write_rows(path: Path, count: int) -> Path:
    """A jsonl file of so many rows."""
    with open(path, "w", encoding="utf-8") as file:
        for row in iterate_rows(count):
            file.write(json.dumps(row) + "\n")
    return path
