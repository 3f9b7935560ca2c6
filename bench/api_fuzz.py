"""Ten thousand broken requests, and schemathesis over the OpenAPI document where it is installed.

    python -m bench.api_fuzz            10,000 cases of our own, and schemathesis if `st` is found
    python -m bench.api_fuzz --quick    300

schemathesis needs an environment of its own; name its `st` in TUNEWRIGHT_SCHEMATHESIS.
"""

# ruff: noqa: E402

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]

from bench.record import at_least, at_most, record
from tests.api.fuzzing import make
from tests.api.tuning_server import TuningServer, write_settings
from tests.jobs.tuning_place import chat_rows, jsonl
from tests.model_zoo import make_tiny

DEVICE = "2 shared cores of an AMD EPYC with AVX512-BF16"
SLOW_S = 10.0


def break_it(server: TuningServer, cases: int, seed: int) -> dict[str, int]:
    """Counts of 5xx, of answers that are no error envelope, and of slow ones."""
    client = server.client()
    file = client.files.create(file=("r.jsonl", jsonl(chat_rows())), purpose="fine-tune").id
    jobs = [client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=file).id
            for _ in range(3)]  # fmt: skip
    grader = {
        "type": "string_check",
        "name": "a",
        "operation": "eq",
        "reference": "x",
        "input": "x",
    }
    config = {"type": "custom", "item_schema": {"type": "object"}}
    jobs += [client.evals.create(data_source_config=config, testing_criteria=[grader]).id] * 2
    dice, found = random.Random(seed), {"cases": cases, "fives": 0, "no_envelope": 0, "slow": 0}
    for _ in range(cases):
        method, path, headers, body = make(dice, [file, *jobs])
        started = time.perf_counter()
        line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        line.request(method, path, body, headers)
        reply = line.getresponse()
        data = reply.read()
        line.close()
        found["slow"] += time.perf_counter() - started > SLOW_S
        if reply.status >= 500:
            found["fives"] += 1
            print(reply.status, method, path, body[:200])
        elif reply.status >= 400:
            found["no_envelope"] += not data.startswith(b'{"error"')
    return found


def run_schemathesis(server: TuningServer, cases: int) -> dict[str, object] | None:
    """Its exit status and the end of what it says; None where it is not installed."""
    program = os.environ.get("TUNEWRIGHT_SCHEMATHESIS") or shutil.which("st")
    if program is None:
        return None
    command = [program, "run", f"{server.root}/openapi.json", "--url", server.root,
               "--checks", "not_a_server_error", "--max-examples", str(cases),
               "--request-timeout", "30", "--exclude-path-regex", "metrics"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=7200, check=False)
    found = re.search(r"(\d+) generated", done.stdout)
    return {
        "status": done.returncode, "cases": int(found[1]) if found else 0,
        "said": done.stdout[-3000:],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--examples", type=int, default=400, help="of schemathesis, an operation")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="tunewright-fuzz-"))
    try:
        write_settings(folder / "server", make_tiny("llama", folder / "llama"), {})
        server = TuningServer(folder / "server", "--no-worker")
        found = break_it(server, 300 if options.quick else 10_000, options.seed)
        outside = run_schemathesis(server, 5 if options.quick else options.examples)
        log = server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    tracebacks = log.count("Traceback")
    print(json.dumps({**found, "tracebacks": tracebacks, "schemathesis": outside}))
    if options.quick:
        return
    bars = [
        at_most("server errors in 10,000 broken requests", found["fives"], 0),
        at_most("errors that clients cannot read", found["no_envelope"], 0),
        at_most("answers slower than 10 s", found["slow"], 0),
        at_most("tracebacks in the log", tracebacks, 0),
    ]
    if outside is not None:
        bars += [
            at_least("schemathesis: cases over the OpenAPI document", outside["cases"], 10_000),
            at_most("schemathesis finds a server error", float(outside["status"] != 0), 0),
        ]
    record("api_fuzz", bars, DEVICE, {"found": found, "schemathesis": outside})


if __name__ == "__main__":
    main()
