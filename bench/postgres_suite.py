"""The server's tests with PostgreSQL as the store of every one of them, not SQLite.

python -m bench.postgres_suite            about ten minutes on one thread
python -m bench.postgres_suite --quick    the board and the transport, to see that it works
"""

# ruff: noqa: E402

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

REPO = Path(__file__).parents[1]
sys.path[:0] = [str(REPO), str(REPO / "tests")]

from bench.record import at_least, at_most, record

from postgres_server import SUITE, running_postgres

DEVICE = "2 shared cores of an AMD EPYC with AVX512-BF16"
TESTS = ("tests/database", "tests/jobs", "tests/releases", "tests/api", "tests/web/test_pages.py",
         "tests/test_access.py")  # fmt: skip
QUICK = ("tests/jobs/test_board.py", "tests/api/test_tuning_transport.py")


def run(tests: tuple[str, ...]) -> dict[str, object]:
    """Counts of pytest's last line, and what failed."""
    with running_postgres() as url:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider",
             "-rfE", "--timeout", "900", *tests],
            cwd=REPO, capture_output=True, text=True, check=False, env={**os.environ, SUITE: url},
        )  # fmt: skip
    last = done.stdout.strip().splitlines()[-1]
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (\w+)", last)}
    broken = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    print(done.stdout[-3000:])
    return {
        "passed": counts.get("passed", 0),
        "failed": counts.get("failed", 0) + counts.get("error", 0) + counts.get("errors", 0),
        "skipped": counts.get("skipped", 0), "status": done.returncode, "broken": broken,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    started = time.time()
    found = run(QUICK if quick else TESTS)
    bars = [
        at_least("tests passed", found["passed"], 20 if quick else 200),
        at_most("tests failed", found["failed"], 0),
    ]
    if not quick:
        record("postgres_suite", bars, DEVICE,
               {"found": found, "seconds": round(time.time() - started)})  # fmt: skip


if __name__ == "__main__":
    main()
