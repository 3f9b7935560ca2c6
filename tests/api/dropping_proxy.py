"""A proxy that lets every first reply be lost: the request arrives, its answer never does."""

from __future__ import annotations

import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import openai

LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
FIRST = re.compile(rb"x-stainless-retry-count: 0\r", re.IGNORECASE)


def read_message(line: socket.socket) -> bytes:
    """One request or reply with a Content-Length, whole; b"" when the line was closed."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = line.recv(65536)
        if not piece:
            return b""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    found = LENGTH.search(head)
    missing = int(found[1]) - len(body) if found else 0
    while missing > 0:
        piece = line.recv(65536)
        data, missing = data + piece, missing - len(piece)
    return data


class DroppingProxy:
    """Forwards to a server, and closes without the reply where the client sends for the first time."""

    def __init__(self, url: str):
        self.host, self.port = url.removeprefix("http://").partition("/")[0].split(":")
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/v1"
        self.num_dropped = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self.listener.close()

    def _serve(self) -> None:
        while True:
            try:
                line, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass, args=(line,), daemon=True).start()

    def _pass(self, line: socket.socket) -> None:
        with line, socket.create_connection((self.host, int(self.port))) as server:
            while request := read_message(line):
                server.sendall(request)
                reply = read_message(server)
                if FIRST.search(request):
                    with self._lock:
                        self.num_dropped += 1
                    return
                line.sendall(reply)


def lose_replies(proxy: DroppingProxy, file: str, count: int, at_once: int = 8) -> list[str]:
    """Ids of jobs that the SDK was told of, each after its first reply was lost."""

    def submit(number: int) -> str:
        with openai.OpenAI(base_url=proxy.url, api_key="x", max_retries=2) as client:
            return client.fine_tuning.jobs.create(
                model="gpt-4o-mini", training_file=file, metadata={"n": str(number)}
            ).id

    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(submit, range(count)))
