"""False alarms on streams without a change, and how soon unknown requests are noticed.

`python bench/watch_stream.py [banking77|nlupp] [--quick]`; a part by itself is kept for a call with
the other part, and recorded with it. 30 streams of 500 batches of 50; a new deal of rows into
train, reference and traffic for every third stream. Changes of 10, 20 and 40 % begin at batch 20;
a stream in which a rule spoke before its change is dealt anew (false alarms are the first bar).
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
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


def measure(name: str, deal: Callable[[int], Watched]) -> dict[str, Any]:
    false: Counter[str] = Counter()
    per_stream: list[int] = []
    delays: dict[float, list[int]] = {share: [] for share in SHARES}
    first: dict[float, Counter[str]] = {share: Counter() for share in SHARES}
    started = time.monotonic()
    for number in range(NUM_STREAMS):
        if number % STREAMS_PER_DEAL == 0:
            watched = deal(number // STREAMS_PER_DEAL)
            ground = make_ground(watched.lens, batch_size=BATCH)
            limits = set_limits(ground, seed=number)
        alarms = stream(watched, limits, ground, 0.0, 1000 + number, NUM_BATCHES)
        per_stream.append(len(alarms))
        false.update(rule for _, rule in alarms)
        for share in SHARES:
            for attempt in range(20):
                found = stream(watched, limits, ground, share,
                               (2000 + number) * 100 + attempt, BEGIN + LONGEST)  # fmt: skip
                if not found or found[0][0] >= BEGIN:
                    break
            delays[share].append(found[0][0] - BEGIN + 1 if found else LONGEST)
            first[share].update([found[0][1]] if found else ["none"])
        print(name, number, per_stream[-1], {s: d[-1] for s, d in delays.items()},
              f"{time.monotonic() - started:.0f} s", flush=True)  # fmt: skip
    return {
        "false_alarms_per_500_batches": float(np.mean(per_stream)),
        "false_alarms_by_stream": per_stream,
        "false_alarms_by_rule": dict(false),
        "mean_delay_batches": {str(s): float(np.mean(d)) for s, d in delays.items()},
        "longest_delay_batches": {str(s): max(d) for s, d in delays.items()},
        "first_rule": {str(s): dict(c) for s, c in first.items()},
    }


PARTS = {"banking77": watch_banking77, "nlupp": watch_nlupp}


def main() -> None:
    found: dict[str, Any] = {}
    wanted = [name for name in PARTS if name in sys.argv] or list(PARTS)
    for name, deal in PARTS.items():
        kept = WORK / f"stream-{name}-{NUM_STREAMS}.json"
        if name in wanted:
            found[name] = measure(name, deal)
            kept.write_text(json.dumps(found[name]))
        elif kept.exists():
            found[name] = json.loads(kept.read_text())
    if len(found) < len(PARTS):
        print(found)
        return
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
