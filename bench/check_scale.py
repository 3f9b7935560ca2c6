"""A whole `tunewright check` of 100,000 and of 1,000,000 rows: time, peak memory, and going on.

Rows of 40 words, 5 % of them near-duplicates as in near_duplicates.py, twenty labels. Each check
is the real command in a process of its own. Then the larger one is killed with SIGKILL in the
middle, started again with the same --cache, and must come to the same card. `--rows` sets other
sizes.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from near_duplicates import make_rows
from record import at_least, at_most, record

DEVICE = "2 shared cores of an AMD EPYC with AVX512-BF16"


def write(path: Path, count: int) -> None:
    texts, _ = make_rows(count)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for text in texts:
            writer.writerow([text, f"class {len(text.split()[0]) % 5}{len(text) % 4}"])


def start(source: Path, cache: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tunewright", "check", str(source), "--json", "--no-embed",
               "--cache", str(cache)]  # fmt: skip
    return subprocess.Popen(command, stdout=out.open("wb"), stderr=subprocess.DEVNULL)


def run(source: Path, cache: Path, out: Path, kill_after_s: float | None = None) -> dict[str, Any]:
    """Seconds, peak resident GB and exit status of one check; killed after so long, where asked."""
    begun = time.perf_counter()
    process = start(source, cache, out)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        process.send_signal(signal.SIGKILL)
    _, status, usage = os.wait4(process.pid, 0)
    found = {
        "seconds": round(time.perf_counter() - begun, 1),
        "peak_gb": round(usage.ru_maxrss / 1e6, 3),
        "processor_s": round(usage.ru_utime + usage.ru_stime, 1),
        "status": os.waitstatus_to_exitcode(status),
    }
    print(source.name, found, flush=True)
    return found


def card(out: Path) -> Any:
    return json.loads(out.read_bytes())


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs=2, default=[100_000, 1_000_000])
    parser.add_argument("--place", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--quick", action="store_true", help="small, and nothing is recorded")
    wish = parser.parse_args()
    few, many = (20_000, 60_000) if wish.quick else wish.rows
    with tempfile.TemporaryDirectory(dir=wish.place) as folder:
        place = Path(folder)
        found: dict[str, Any] = {}
        for name, count in (("few", few), ("many", many)):
            write(place / f"{name}.csv", count)
            found[name] = run(place / f"{name}.csv", place / f"cache-{name}", place / name)
        again = place / "cache-again"
        half = 0.5 * found["many"]["seconds"]
        found["killed"] = run(place / "many.csv", again, place / "killed", kill_after_s=half)
        found["resumed"] = run(place / "many.csv", again, place / "again")
        same = card(place / "many") == card(place / "again")
    grown = found["many"]["peak_gb"] - found["few"]["peak_gb"]
    share = found["resumed"]["seconds"] / found["many"]["seconds"]
    title = f"check of {many:,} rows of 40 words"
    bars = [
        at_most(title, found["many"]["seconds"] / 60, 30.0, "minutes"),
        at_most(f"{title}, resident at most", found["many"]["peak_gb"], 4.0, "GB"),
        at_most(f"{title}, resident above that of {few:,}", grown, 2.0, "GB"),
        at_most(f"{title}, killed halfway: the second start takes", share, 0.7, "of the time"),
        at_least(f"{title}, killed halfway: the same card", float(same), 1.0),
    ]
    if not wish.quick:
        record("check_scale", bars, DEVICE, {"rows": [few, many], **found})
    print(*bars, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
