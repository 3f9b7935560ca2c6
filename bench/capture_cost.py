"""What keeping traffic costs an answer: at most 1 ms at p99, and never a wait.

`python bench/capture_cost.py [--quick]`. A server with a tiny classifier answers requests one after
the other on a kept connection, with and without capture in turns (ten turns of each, so that a
busy machine hurts both); the cost is the difference of the two p99. Texts are 200 characters with
an address and a card number now and then, so that redaction has work. Beside it: the time of `put`
itself while the writer is at work, and what happens when rows come faster than they can be
written: they are dropped and counted, and `put` takes no longer.
"""

from __future__ import annotations

import http.client
import json
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.api.conftest import make_tiny, tune

from record import at_least, at_most, record
from tunewright.api.app import make_app
from tunewright.hosting import Hosting, find_served
from tunewright.records import Request
from tunewright.serve.capture import Capture, CaptureSettings

QUICK = "--quick" in sys.argv
TURNS = 3 if QUICK else 10
REQUESTS = 200 if QUICK else 1000
PUTS = 5_000 if QUICK else 50_000
HARDWARE = "2 shared cores of an AMD EPYC with AVX512-BF16"


def text(number: int) -> str:
    extra = "write to anna.lind@example.com" if number % 5 == 0 else "nothing else to say"
    card = "4111 1111 1111 1111" if number % 7 == 0 else "no card at hand"
    begin = f"question {number} about my card: it was refused twice in the shop, {extra}, {card}; "
    return f"{begin}please tell me what I can do about it today, for I am on my way".ljust(200)


def serve(run: str, capture: Capture | None) -> tuple[uvicorn.Server, threading.Thread, int]:
    app = make_app(Hosting(find_served([run])), capture=capture)
    # As `serve` listens: with the protocol named, Nagle's algorithm is off.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    return server, thread, listener.getsockname()[1]


def ask(connection: http.client.HTTPConnection, begin: int, count: int) -> list[float]:
    """Seconds of each answer."""
    took = []
    for number in range(begin, begin + count):
        body = json.dumps({"model": "labels", "input": [text(number)]})
        begun = time.perf_counter()
        connection.request("POST", "/v1/classify", body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        reply.read()
        took.append(time.perf_counter() - begun)
        assert reply.status == 200
    return took


def over_http(folder: Path) -> dict[str, Any]:
    run = tune(folder, "labels", make_tiny("bert", folder / "bert"), "classify", "full")
    capture = Capture(folder / "traffic")
    sides = {"without": serve(run, None), "with": serve(run, capture)}
    lines = {name: http.client.HTTPConnection("127.0.0.1", port, timeout=60)
             for name, (_, _, port) in sides.items()}  # fmt: skip
    took: dict[str, list[float]] = {name: [] for name in sides}
    for line in lines.values():
        ask(line, 0, 50)
    for turn in range(TURNS):
        for name, line in lines.items():
            took[name] += ask(line, turn * REQUESTS, REQUESTS)
    for server, thread, _ in sides.values():
        server.should_exit = True
        thread.join(20)
    quantiles = {name: {q: float(np.quantile(values, q) * 1e3) for q in (0.5, 0.99)}
                 for name, values in took.items()}  # fmt: skip
    return {"ms": quantiles, "kept": capture.kept, "dropped": capture.dropped,
            "failed": capture.failed}  # fmt: skip


def of_put(folder: Path) -> dict[str, Any]:
    """Milliseconds of `put` at 2,000 rows a second, which the writer can follow or not."""
    capture, took = Capture(folder / "put"), []
    for number in range(PUTS):
        row = Request(f"r{number}", 0.0, text(number), "card", 0.9, (0.9, 0.1))
        begun = time.perf_counter()
        capture.put(row)
        took.append(time.perf_counter() - begun)
        if number % 20 == 0:
            time.sleep(0.01)
    capture.close(60)
    return {"p99_ms": float(np.quantile(took, 0.99) * 1e3), "max_ms": max(took) * 1e3,
            "kept": capture.kept, "dropped": capture.dropped}  # fmt: skip


def of_a_flood(folder: Path) -> dict[str, Any]:
    """A queue of 100 rows and no pause: nothing waits, what does not fit is counted."""
    capture, took = Capture(folder / "flood", CaptureSettings(queue_rows=100)), []
    rows = [Request(f"r{n}", 0.0, text(n), "card", 0.9) for n in range(PUTS // 5)]
    for row in rows:
        begun = time.perf_counter()
        capture.put(row)
        took.append(time.perf_counter() - begun)
    capture.close(60)
    return {"p99_ms": float(np.quantile(took, 0.99) * 1e3), "asked": len(rows),
            "kept": capture.kept, "dropped": capture.dropped}  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        http_cost, put, flood = over_http(folder), of_put(folder), of_a_flood(folder)
    more = {q: http_cost["ms"]["with"][q] - http_cost["ms"]["without"][q] for q in (0.5, 0.99)}
    print(http_cost, put, flood, more)
    bars = [
        at_most("what keeping traffic adds to an answer, difference of p99", more[0.99], 1.0, "ms"),
        at_most("time of `put`, p99", put["p99_ms"], 1.0, "ms"),
        at_most("time of `put` into a full queue, p99", flood["p99_ms"], 1.0, "ms"),
        at_least("rows of a flood that are kept or counted as dropped",
                 100 * (flood["kept"] + flood["dropped"]) / flood["asked"], 100.0, "%"),
    ]  # fmt: skip
    if QUICK:
        print(bars)
        return
    record("capture_cost", bars, HARDWARE, {
        "method": __doc__, "over_http": http_cost, "put": put, "flood": flood,
        "added_ms": {str(q): v for q, v in more.items()},
    })  # fmt: skip


if __name__ == "__main__":
    main()
