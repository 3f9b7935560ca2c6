"""Reads, durable submits, and a thousand streams of events on one server.

    python -m bench.api_load            the bars
    python -m bench.api_load --quick    a tenth, to see that it works

The clients run in processes of their own and share the two cores with the server.
"""

# ruff: noqa: E402

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]

import numpy as np
import psutil
from bench.record import at_least, at_most, record
from tests.api.tuning_server import TuningServer, write_settings
from tests.jobs.tuning_place import chat_rows, jsonl
from tests.model_zoo import make_tiny

from tunewright.database.engine import open_database, sqlite_url
from tunewright.jobs import board

DEVICE = "2 shared cores of an AMD EPYC with AVX512-BF16"


async def _answer(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    await reader.readexactly(length)
    return int(head.split()[1])


async def _load(port: int, request: bytes, clients: int, seconds: float) -> list[float]:
    times: list[float] = []
    until = time.perf_counter() + seconds

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < until:
            started = time.perf_counter()
            writer.write(request)
            assert await _answer(reader) == 200
            times.append(time.perf_counter() - started)
        writer.close()

    await asyncio.gather(*(one() for _ in range(clients)))
    return times


def _load_process(port: int, request: bytes, clients: int, seconds: float, out) -> None:
    out.put(asyncio.run(_load(port, request, clients, seconds)))


def load(
    port: int, request: bytes, *, clients: int = 32, seconds: float = 10
) -> tuple[float, float]:
    """(requests per second, p99 in seconds)."""
    out = multiprocessing.Queue()
    process = multiprocessing.Process(
        target=_load_process, args=(port, request, clients, seconds, out)
    )
    process.start()
    times = out.get(timeout=seconds + 60)
    process.join()
    return len(times) / seconds, float(np.quantile(times, 0.99))


def request(method: str, path: str, body: bytes = b"") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def _streams(port: int, job: str, num: int, tell, total: int) -> tuple[int, int]:
    """(streams that lost or repeated an event over a reconnect, events seen)."""
    ready, wrong, seen_all = asyncio.Event(), 0, 0
    opened = 0

    async def follow(number: int) -> None:
        nonlocal opened, wrong, seen_all
        places, last = [], None
        for part in range(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            more = f"Last-Event-ID: {last}\r\n" if last else ""
            path = f"/v1/fine_tuning/jobs/{job}/events?stream=true"
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}\r\n".encode())
            if part == 0:
                opened += 1
                if opened == num:
                    ready.set()
            while line := await reader.readline():
                if line.startswith(b"id: "):
                    last = line[4:].strip().decode()
                elif line.startswith(b"data: {"):
                    places.append(json.loads(line[6:])["place"])
                    if part == 0 and len(places) >= 3 + number % (total - 3):
                        break
                elif line.startswith(b"data: [DONE]"):
                    break
            writer.close()
        seen_all += len(places)
        wrong += places != list(range(1, len(places) + 1)) or len(places) < total

    async def speak() -> None:
        await ready.wait()
        await asyncio.to_thread(tell)

    await asyncio.gather(speak(), *(follow(n) for n in range(num)))
    return wrong, seen_all


def run(share: float, folder: Path) -> dict[str, float]:
    """All figures."""
    write_settings(folder / "server", make_tiny("llama", folder / "llama"), {})
    server = TuningServer(folder / "server", "--no-worker")
    client = server.client()
    file = client.files.create(file=("r.jsonl", jsonl(chat_rows())), purpose="fine-tune").id
    job = client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=file).id
    seconds = max(1.0, 10 * share)
    reads, reads_p99 = load(server.port, request("GET", f"/v1/fine_tuning/jobs/{job}"),
                            seconds=seconds)  # fmt: skip
    body = json.dumps({"model": "gpt-4o-mini", "training_file": file}).encode()
    submits, submits_p99 = load(
        server.port, request("POST", "/v1/fine_tuning/jobs", body), seconds=seconds
    )
    process = psutil.Process(server.process.pid)
    num = max(10, int(1000 * share))
    before, fds = process.memory_info().rss, process.num_fds()
    database = open_database(sqlite_url(server.folder / "server.sqlite"))
    most = [0]

    def tell() -> None:
        for number in range(20):
            with database.writing() as connection:
                board.add_event(connection, job, f"news {number}")
            most[0] = max(most[0], process.memory_info().rss)
            time.sleep(0.1)
        board.cancel_job(database, job)

    started = time.perf_counter()
    wrong, seen = asyncio.run(_streams(server.port, job, num, tell, 23))
    took = time.perf_counter() - started
    time.sleep(1)
    found = {
        "reads_per_s": reads, "reads_p99_s": reads_p99, "submits_per_s": submits,
        "submits_p99_s": submits_p99, "streams": num, "streams_wrong": wrong,
        "events_seen": seen, "streams_seconds": took,
        "bytes_per_stream": (most[0] - before) / num, "fds_more": process.num_fds() - fds,
    }  # fmt: skip
    server.stop()
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    folder = Path(tempfile.mkdtemp(prefix="tunewright-load-"))
    try:
        found = run(0.1 if quick else 1.0, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(found))
    if quick:
        return
    bars = [
        at_least("reads", found["reads_per_s"], 1000, "/s"),
        at_most("reads, p99 at 32 connections", 1000 * found["reads_p99_s"], 100, "ms"),
        at_least("durable submits", found["submits_per_s"], 300, "/s"),
        at_most("durable submits, p99", 1000 * found["submits_p99_s"], 250, "ms"),
        at_most("streams that lost or repeated an event", found["streams_wrong"], 0),
        at_most("memory of a stream", found["bytes_per_stream"] / 1000, 50, "kB"),
    ]
    record("api_load", bars, DEVICE, {"found": found})


if __name__ == "__main__":
    main()
