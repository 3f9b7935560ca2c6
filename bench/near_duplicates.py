"""A million synthetic rows of 40 words with 5 % near-duplicates: minutes, memory, recall; and
20,000 of them beside `datasketch` in one process, where it is installed.

A near-duplicate is another row with one word dropped, one changed, two letters swapped, or a word
added. `--rows` sets another number. `--datasketch PYTHON` names an interpreter that has it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np

from record import Bar, at_least, at_most, record
from tunewright.data.audit.near import near_pairs
from tunewright.journal import ConsoleJournal

DEVICE = "2 shared cores of an AMD EPYC with AVX512-BF16"
WORDS_EACH = 40
PEER = """
import json, sys, time
from datasketch import MinHash, MinHashLSH
texts = [line.rstrip("\\n") for line in open(sys.argv[1], encoding="utf-8")]
begun = time.perf_counter()
index, pairs = MinHashLSH(threshold=0.8, num_perm=64), 0
for number, text in enumerate(texts):
    padded = f" {text} "
    made = MinHash(num_perm=64)
    made.update_batch({padded[i:i + 4].encode() for i in range(len(padded) - 3)})
    pairs += len(index.query(made))
    index.insert(number, made)
print(json.dumps({"seconds": time.perf_counter() - begun, "pairs": pairs}))
"""


def make_rows(count: int, seed: int = 5) -> tuple[list[str], np.ndarray]:
    """(texts, (P, 2) planted pairs): the last twentieth of the rows are changed copies."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(rng.choice(letters, rng.integers(3, 9))) for _ in range(30_000)]
    weights = 1.0 / (np.arange(len(words)) + 20)
    edges = np.cumsum(weights / weights.sum())
    copies = count // 20
    texts: list[str] = []
    while len(texts) < count - copies:
        number = min(10_000, count - copies - len(texts))
        drawn = np.searchsorted(edges, rng.random((number, WORDS_EACH)) * edges[-1])
        texts += [" ".join([words[i] for i in row]) for row in drawn.tolist()]
    originals = rng.choice(len(texts), copies, replace=False)
    for original in originals:
        texts.append(change(texts[original], words, rng))
    return texts, np.stack([originals, np.arange(count - copies, count)], axis=1)


def change(text: str, words: list[str], rng: np.random.Generator) -> str:
    parts = text.split()
    place, other = int(rng.integers(len(parts))), words[int(rng.integers(len(words)))]
    how = int(rng.integers(4))
    if how == 0:
        del parts[place]
    elif how == 1:
        parts[place] = other
    elif how == 2:
        parts[place] = parts[place][1] + parts[place][0] + parts[place][2:]
    else:
        parts.insert(place, other)
    return " ".join(parts)


def recall(found: np.ndarray, planted: np.ndarray) -> float:
    listed = set(map(tuple, found.tolist()))
    return sum(tuple(pair) in listed for pair in planted.tolist()) / len(planted)


def compare_with_peer(python: str, texts: list[str], path: str) -> dict[str, float]:
    """Seconds of both on the same rows, one process and one thread each, ours second."""
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(texts) + "\n")
    done = subprocess.run(
        [python, "-c", PEER, path], capture_output=True, text=True, check=True, timeout=400
    )
    peer = json.loads(done.stdout)
    begun = time.perf_counter()
    pairs = near_pairs(texts, workers=1)
    seconds = time.perf_counter() - begun
    return {
        "rows": len(texts), "datasketch_s": round(peer["seconds"], 2),
        "datasketch_pairs": peer["pairs"], "ours_s": round(seconds, 2), "our_pairs": len(pairs),
        "ratio": round(peer["seconds"] / seconds, 2),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--peer-rows", type=int, default=20_000)
    parser.add_argument("--datasketch")
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    texts, planted = make_rows(asked.rows)
    begun = time.perf_counter()
    with ConsoleJournal().progress("looking for near-duplicates", 1.0) as advance:
        found = near_pairs(texts, workers=asked.workers, advance=advance)
    minutes = (time.perf_counter() - begun) / 60
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    extra = {"rows": asked.rows, "pairs": len(found), "workers": asked.workers}
    name = f"{asked.rows:,} rows of 40 words"
    bars: list[Bar] = [
        at_most(f"{name}, near-duplicates", minutes, 6.0, "minutes"),
        at_most(f"{name}, resident at most", peak_gb, 2.0, "GB"),
        at_least(f"{name}, recall of planted pairs", recall(found, planted), 0.95),
    ]
    if asked.datasketch:
        half = asked.peer_rows // 40
        some = [*texts[: asked.peer_rows - half], *texts[len(texts) - half :]]
        with tempfile.TemporaryDirectory() as folder:
            beside = compare_with_peer(asked.datasketch, some, f"{folder}/rows.txt")
        extra["beside_datasketch"] = beside
        bars.append(
            at_least(
                "seconds of datasketch over ours, one process, same rows", beside["ratio"], 1.0
            )
        )
    record(
        "near_duplicates",
        bars,
        device="2 shared cores of an AMD EPYC with AVX512-BF16",
        extra=extra,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
