"""The first reply is lost, the SDK sends again by itself: 200 times, exactly one job each.

python -m bench.lost_replies            200, about a minute
python -m bench.lost_replies --quick    20, to see that it works
"""

# ruff: noqa: E402

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]

from bench.record import at_least, at_most, record
from tests.api.dropping_proxy import DroppingProxy, lose_replies
from tests.api.tuning_server import TuningServer, write_settings
from tests.jobs.tuning_place import chat_rows, jsonl
from tests.model_zoo import make_tiny

DEVICE = "2 shared cores of an AMD EPYC with AVX512-BF16"


def run(folder: Path, count: int) -> dict[str, float]:
    """Counts of replies lost, jobs told of, jobs there are."""
    write_settings(folder / "server", make_tiny("llama", folder / "llama"), {})
    server = TuningServer(folder / "server", "--no-worker")
    client = server.client()
    file = client.files.create(file=("r.jsonl", jsonl(chat_rows())), purpose="fine-tune").id
    proxy = DroppingProxy(server.root)
    told = lose_replies(proxy, file, count)
    proxy.close()
    made = [job.id for job in client.fine_tuning.jobs.list(limit=100)]
    server.stop()
    return {
        "replies_lost": proxy.num_dropped, "told": len(set(told)), "made": len(made),
        "made_and_not_told": len(set(made) - set(told)),
        "told_and_not_made": len(set(told) - set(made)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    count = 20 if parser.parse_args().quick else 200
    folder = Path(tempfile.mkdtemp(prefix="tunewright-replies-"))
    started = time.time()
    try:
        found = run(folder, count)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(found)
    bars = [
        at_least("first replies lost", found["replies_lost"], count),
        at_least("jobs that clients were told of", found["told"], count),
        at_most("jobs twice", found["made_and_not_told"], 0),
        at_most("jobs that are not there", found["told_and_not_made"], 0),
    ]
    if count == 200:
        record(
            "lost_replies", bars, DEVICE, {"found": found, "seconds": round(time.time() - started)}
        )


if __name__ == "__main__":
    main()
