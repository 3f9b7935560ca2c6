"""False alarms on streams without a change, and how soon unknown requests are noticed.

`python bench/watch_stream.py [banking77|nlupp [--from N --to N]] [--quick]`. Streams measured one
by one are kept; a call without names adds them up, measures what is missing, and records.

30 streams of 500 batches of 50; a new deal of rows into train, reference and traffic for every
third stream. Changes of 10, 20 and 40 % begin at batch 20; a stream in which a rule spoke before
its change is dealt anew (false alarms are the first bar).
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from record import at_most, record
from tunewright.monitor.limits import make_ground, set_limits
from tunewright.monitor.watcher import Watcher
from watch_model import Watched, watch_banking77, watch_nlupp
from watch_rows import WORK

QUICK = "--quick" in sys.argv
NUM_STREAMS = 6 if QUICK else 30
NUM_BATCHES = 500
BATCH = 50
STREAMS_PER_DEAL = 3
BEGIN = 20
LONGEST = 200
SHARES = (0.1, 0.2, 0.4)
BARS = {0.1: 16.0, 0.2: 5.0, 0.4: 2.5}


def stream(watched: Watched, limits: dict[str, float], ground: Any, share: float, seed: int,
           batches: int) -> list[tuple[int, str]]:  # fmt: skip
    """(batch, first rule) of every alarm. share: of unknown requests from batch BEGIN on."""
    requests, facts = watched.joined()
    known, novel = len(watched.known_requests), len(watched.novel_requests)
    rng, watcher = np.random.default_rng(seed), Watcher(ground, limits)
    alarms = []
    for batch in range(batches):
        new = rng.random(BATCH) < (share if batch >= BEGIN else 0.0)
        index = np.where(new, known + rng.integers(0, novel, BATCH), rng.integers(0, known, BATCH))
        signals = watcher.observe([requests[i] for i in index], facts.take(index))
        if signals:
            alarms.append((batch, signals[0].rule))
            if share and batch >= BEGIN:
                break
    return alarms


def measure(name: str, deal: Callable[[int], Watched], numbers: range) -> list[dict[str, Any]]:
    """One document a stream; those that the same code has measured before are taken over."""
    place = WORK / f"stream-{name}-{code()}"
    place.mkdir(parents=True, exist_ok=True)
    told, ready, started = [], -1, time.monotonic()
    for number in numbers:
        path = place / f"{number}.json"
        if path.exists():
            told.append(json.loads(path.read_text()))
            continue
        first = number // STREAMS_PER_DEAL * STREAMS_PER_DEAL
        if ready != first:
            watched = deal(number // STREAMS_PER_DEAL)
            ground = make_ground(watched.lens, batch_size=BATCH)
            limits, ready = set_limits(ground, seed=first), first
        alarms = stream(watched, limits, ground, 0.0, 1000 + number, NUM_BATCHES)
        delays, rules = {}, {}
        for share in SHARES:
            for attempt in range(20):
                found = stream(watched, limits, ground, share,
                               (2000 + number) * 100 + attempt, BEGIN + LONGEST)  # fmt: skip
                if not found or found[0][0] >= BEGIN:
                    break
            delays[str(share)] = found[0][0] - BEGIN + 1 if found else LONGEST
            rules[str(share)] = found[0][1] if found else "none"
        told.append({"false": [rule for _, rule in alarms], "delays": delays, "first": rules})
        path.write_text(json.dumps(told[-1]))
        print(name, number, told[-1], f"{time.monotonic() - started:.0f} s", flush=True)
    return told


def code() -> str:
    """Stands for everything that a stream depends on."""
    import tunewright.monitor.limits

    files = sorted(Path(tunewright.monitor.limits.__file__).parent.glob("*.py"))
    files += [Path(__file__).parent / "watch_model.py", Path(__file__).parent / "watch_rows.py"]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:10]


def add_up(told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    shares = [str(share) for share in SHARES]
    return {
        "false_alarms_per_500_batches": float(np.mean([len(one["false"]) for one in told])),
        "false_alarms_by_stream": [len(one["false"]) for one in told],
        "false_alarms_by_rule": dict(Counter(rule for one in told for rule in one["false"])),
        "mean_delay_batches": {s: float(np.mean([t["delays"][s] for t in told])) for s in shares},
        "longest_delay_batches": {s: max(t["delays"][s] for t in told) for s in shares},
        "first_rule": {s: dict(Counter(t["first"][s] for t in told)) for s in shares},
    }


def option(name: str, usual: int) -> int:
    return int(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else usual


PARTS = {"banking77": watch_banking77, "nlupp": watch_nlupp}


def main() -> None:
    chosen = [name for name in PARTS if name in sys.argv]
    if chosen:
        for name in chosen:
            numbers = range(option("--from", 0), option("--to", NUM_STREAMS))
            print(add_up(measure(name, PARTS[name], numbers)))
        return
    found = {name: add_up(measure(name, deal, range(NUM_STREAMS))) for name, deal in PARTS.items()}
    bars = []
    for name, figures in found.items():
        bars.append(at_most(f"{name}: false alarms in 500 batches of 50, all rules together, mean "
                            f"of {NUM_STREAMS} streams",
                            figures["false_alarms_per_500_batches"], 1.0))  # fmt: skip
        for share in SHARES:
            bars.append(at_most(f"{name}: mean delay at {100 * share:.0f} % unknown requests",
                                figures["mean_delay_batches"][str(share)], BARS[share],
                                "batches"))  # fmt: skip
    if not QUICK:
        record("watch_stream", bars, "2 shared cores of an AMD EPYC with AVX512-BF16",
               {"method": __doc__, "measured": found})  # fmt: skip
    else:
        print(bars)


if __name__ == "__main__":
    main()
