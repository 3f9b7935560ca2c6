"""The server under load: many clients, ten adapters of one base mixed, and what the gateway costs.

Three measurements in one run, over loopback, with a client of its own that spends little:

- one client after another, then 64 at once, each request to one of ten adapters in turn: requests
  per second, ratio of the two, errors. Greedy answers of 32 tokens from a tiny base of random
  weights (4 layers, 256 wide), so that the engine does real work.
- the same application with an engine that answers at once: its peak rate, then requests at half of
  it, evenly in time; p99 of the time from sending to the last byte is the overhead of the gateway.

    python bench/serve_load.py [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import at_least, at_most, record

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]
HARDWARE = "2 shared cores of an AMD EPYC with AVX512-BF16"
NUM_ADAPTERS, NUM_CLIENTS, NUM_TOKENS = 10, 64, 32


def serve(folder: str, null: bool, pipe: Any) -> None:
    """A server in a process of its own; tells its port."""
    import socket

    import torch
    import uvicorn

    from tunewright.api.app import make_app
    from tunewright.hosting import Hosting, TextModel, find_served

    torch.set_num_threads(1)
    paths = sorted(str(path) for path in Path(folder).glob("a*"))

    class NullHosting(Hosting):
        """Every model answers at once."""

        def open_text(self, name: str) -> TextModel:
            if not hasattr(self, "ready"):
                real = super().open_text(name)
                self.ready = real.rendering
            return TextModel(NullServer(), self.ready, None, NUM_TOKENS)

    hosting = (NullHosting if null else Hosting)(find_served(paths), max_waiting=1024)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    pipe.send(listener.getsockname()[1])
    config = uvicorn.Config(make_app(hosting), log_level="error", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


class NullServer:
    """A TextServer that writes one token and ends, in no time."""

    num_requests = 0
    ends: frozenset[int] = frozenset()

    def submit(self, request: Any, listener: Any) -> int:
        from tunewright.model.engine import Token

        listener(Token(0, 5, -1.0, "x", "length", ()))
        return 0

    def cancel(self, number: int) -> None:
        """Nothing is under way."""

    def space(self, prompt: Any, max_new_tokens: int) -> int:
        return max_new_tokens


class Client:
    """One kept connection; `ask` gives (status, seconds)."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def open(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, number: int) -> tuple[int, float]:
        body = json.dumps(
            {
                "model": f"a{number % NUM_ADAPTERS}", "max_tokens": NUM_TOKENS, "temperature": 0,
                "messages": [{"role": "user", "content": f"question {number} about my card"}],
            }
        ).encode()  # fmt: skip
        started = time.perf_counter()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.writer.write(head.encode() + body)
        answer = await self.reader.readuntil(b"\r\n\r\n")
        size = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await self.reader.readexactly(size)
        return int(answer.split(b" ", 2)[1]), time.perf_counter() - started


async def closed_loop(port: int, clients: int, seconds: float) -> tuple[float, int]:
    """(requests per second, errors) of clients that ask again as soon as they are answered."""
    numbers, done, errors = itertools.count(), 0, 0
    ends_at = time.perf_counter() + seconds

    async def run() -> None:
        nonlocal done, errors
        client = Client(port)
        await client.open()
        while time.perf_counter() < ends_at:
            status, _ = await client.ask(next(numbers))
            done += 1
            errors += status != 200

    started = time.perf_counter()
    await asyncio.gather(*(run() for _ in range(clients)))
    return done / (time.perf_counter() - started), errors


async def open_loop(port: int, rate: float, seconds: float) -> list[float]:
    """Seconds of each of the requests that are sent evenly, whatever became of those before."""
    clients = [Client(port) for _ in range(64)]
    for client in clients:
        await client.open()
    free: asyncio.Queue[Client] = asyncio.Queue()
    for client in clients:
        free.put_nowait(client)
    taken: list[float] = []
    started = time.perf_counter()

    async def one(number: int, due: float) -> None:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        client = await free.get()
        sent = time.perf_counter()
        await client.ask(number)
        taken.append(time.perf_counter() - min(sent, max(due, sent)))
        free.put_nowait(client)

    await asyncio.gather(
        *(one(number, started + number / rate) for number in range(int(rate * seconds)))
    )
    return taken


def started(folder: str, null: bool) -> tuple[Any, int]:
    """A server process that has answered once for every adapter, and its port."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=serve, args=(folder, null, theirs)
    )
    process.start()
    port = ours.recv()

    async def warm() -> None:
        for _ in range(600):
            try:
                client = Client(port)
                await client.open()
            except OSError:
                await asyncio.sleep(0.1)
                continue
            for number in range(NUM_ADAPTERS):
                await client.ask(number)
            return

    asyncio.run(warm())
    return process, port


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short, and nothing is recorded")
    quick = parser.parse_args().quick
    seconds = 3.0 if quick else 20.0
    from tests.test_hosting import make_adapters

    with tempfile.TemporaryDirectory() as folder:
        make_adapters(Path(folder), NUM_ADAPTERS)
        process, port = started(folder, null=False)
        ratios, rates, errors = [], [], 0
        for _ in range(1 if quick else 3):
            alone, wrong = asyncio.run(closed_loop(port, 1, seconds))
            many, more = asyncio.run(closed_loop(port, NUM_CLIENTS, seconds))
            errors += wrong + more
            rates.append((alone, many))
            ratios.append(many / alone)
        process.terminate()
        process, port = started(folder, null=True)
        peak, _ = asyncio.run(closed_loop(port, 16, seconds))
        taken = sorted(asyncio.run(open_loop(port, peak / 2, seconds)))
        process.terminate()
    p50, p99 = (1000 * taken[int(share * (len(taken) - 1))] for share in (0.5, 0.99))
    print(f"one at a time and {NUM_CLIENTS} at once, requests/s: {rates}; errors {errors}")
    print(f"null engine: peak {peak:.0f}/s; at half of it p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    if quick:
        return
    record(
        "serve_load",
        [
            at_least("64 clients, 10 adapters mixed: throughput over one request at a time",
                     statistics.median(ratios), 4.0, "times "),
            at_most("64 clients, 10 adapters mixed: errors", errors, 0),
            at_most("gateway overhead, p99 at half of peak load, null engine", p99, 15.0, "ms "),
        ],
        HARDWARE,
        {"requests_per_s": rates, "null_peak_per_s": peak, "p50_ms": p50},
    )  # fmt: skip


if __name__ == "__main__":
    main()
