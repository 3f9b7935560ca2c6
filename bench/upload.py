"""Uploads: a 512 MB file, one byte more, cut connections, and what others feel meanwhile.

python -m bench.upload            the bars
python -m bench.upload --quick    32 MB, to see that it works
"""

# ruff: noqa: E402

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]

import numpy as np
import psutil
from bench.record import at_least, at_most, record
from tests.api.tuning_server import TuningServer, write_settings
from tests.model_zoo import make_tiny

DEVICE = "2 shared cores of an AMD EPYC with AVX512-BF16"
BOUNDARY = b"----bench"
PIECE = b"x" * (1 << 20)


def send(port: int, size: int, stop_after: int | None = None) -> tuple[int, float]:
    """(status, seconds) of an upload of `size` bytes; 0 where it was cut by us."""
    disposition = b"\r\nContent-Disposition: form-data; name="
    head = b"--" + BOUNDARY + disposition + b'"purpose"\r\n\r\nuser_data\r\n'
    head += b"--" + BOUNDARY + disposition + b'"file"; filename="a.bin"\r\n\r\n'
    tail = b"\r\n--" + BOUNDARY + b"--\r\n"
    started = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as line:
        length = len(head) + size + len(tail)
        line.sendall(
            b"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
            b"Content-Type: multipart/form-data; boundary=" + BOUNDARY + b"\r\n"
            b"Content-Length: %d\r\n\r\n" % length + head
        )
        left = size if stop_after is None else stop_after
        while left > 0:
            line.sendall(PIECE[: min(left, len(PIECE))])
            left -= len(PIECE)
        if stop_after is not None:
            return 0, time.perf_counter() - started
        line.sendall(tail)
        reply = http.client.HTTPResponse(line)
        reply.begin()
        reply.read()
        return reply.status, time.perf_counter() - started


def feel(port: int, over: threading.Event, seconds: list[float]) -> None:
    """Ask for the list of jobs, again and again; the time of each."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    while not over.is_set():
        started = time.perf_counter()
        line.request("GET", "/v1/fine_tuning/jobs")
        line.getresponse().read()
        seconds.append(time.perf_counter() - started)
        time.sleep(0.005)


def run(size: int, folder: Path) -> dict[str, float]:
    """All figures."""
    write_settings(folder / "server", make_tiny("llama", folder / "llama"), {},
                   max_file_bytes=size)  # fmt: skip
    server = TuningServer(folder / "server", "--no-worker")
    process = psutil.Process(server.process.pid)
    send(server.port, 1 << 20)  # whatever is loaded at the first one
    before = peak_bytes(process)
    over, seconds = threading.Event(), []
    feeling = threading.Thread(target=feel, args=(server.port, over, seconds))
    feeling.start()
    status, took = send(server.port, size)
    over.set()
    feeling.join()
    grown = peak_bytes(process) - before
    too_large, _ = send(server.port, size + 1)
    for share in (0.0, 0.3, 0.999):
        send(server.port, size, stop_after=int(share * size))
    until = time.monotonic() + 10
    incoming = server.folder / "incoming"
    while any(incoming.iterdir()) and time.monotonic() < until:
        time.sleep(0.1)
    found = {
        "status": status, "seconds": took, "grown_bytes": grown,
        "others_p99_s": float(np.quantile(seconds, 0.99)), "others": len(seconds),
        "one_byte_over": too_large, "left": len([*incoming.iterdir()]),
        "files": len([*(server.folder / "files").iterdir()]),
    }  # fmt: skip
    server.stop()
    return found


def peak_bytes(process: psutil.Process) -> int:
    """The most that the process ever held."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    return 1024 * int(text.split("VmHWM:")[1].split()[0])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    size = 32 << 20 if parser.parse_args().quick else 512 << 20
    folder = Path(tempfile.mkdtemp(prefix="tunewright-upload-"))
    try:
        found = run(size, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(found))
    if size < 512 << 20:
        return
    bars = [
        at_least("512 MB are taken", found["status"] == 200, 1),
        at_most("seconds for 512 MB", found["seconds"], 5, "s"),
        at_most("memory of the server grows by", found["grown_bytes"] / 2**20, 32, "MB"),
        at_most("other requests meanwhile, p99", 1000 * found["others_p99_s"], 50, "ms"),
        at_least("one byte over is 413", found["one_byte_over"] == 413, 1),
        at_most("left behind by cut connections", found["left"] + found["files"] - 2, 0),
    ]
    record("upload", bars, DEVICE, {"found": found})


if __name__ == "__main__":
    main()
