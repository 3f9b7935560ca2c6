"""A server in a thread, and faults that a test orders: refusals, storms, answers that get lost."""

import contextlib
import json
import threading
import time

import uvicorn
from starlette.responses import JSONResponse, StreamingResponse


class Live:
    """An ASGI app on a free port of loopback, until `stop`."""

    def __init__(self, app, port=0):
        config = uvicorn.Config(app, port=port, log_level="critical", timeout_keep_alive=1)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def stop(self):
        self.server.should_exit = True
        self.server.force_exit = True
        self.thread.join(20)


class Faults:
    """Middleware: what was ordered happens to the next matching requests, each as often as said."""

    def __init__(self):
        self.ordered, self.requests = [], []

    def order(
        self, method, path, *, status=None, body=None, headers=None, times=1, lost=False, hook=None
    ):
        """status: answered in place of the app. lost: the app does it, and its answer breaks off.
        hook: called when the app has done it, before it answers.
        """
        fault = {"method": method, "path": path, "status": status, "body": body or {},
                 "headers": headers or {}, "times": times, "lost": lost, "hook": hook}  # fmt: skip
        self.ordered.append(fault)

    async def __call__(self, request, call_next):
        self.requests.append((request.method, request.url.path, dict(request.headers)))
        for fault in self.ordered:
            if not fault["times"] or request.method != fault["method"]:
                continue
            if fault["path"] not in request.url.path:
                continue
            fault["times"] -= 1
            if fault["hook"] is not None:
                answer = await call_next(request)
                fault["hook"]()
                return answer
            if not fault["lost"]:
                return JSONResponse(fault["body"], fault["status"], headers=fault["headers"])
            await call_next(request)
            return StreamingResponse(_broken(), headers={"content-length": "100000"})
        return await call_next(request)

    def count(self, method, path):
        return sum(m == method and path in p for m, p, _ in self.requests)


async def _broken():
    yield b"{"
    raise ConnectionResetError


def words(text):
    return set(text.lower().split())


class Parrot:
    """A "model": answers a question as the most similar of the questions that it was given."""

    def __init__(self, pairs):
        self.pairs = [(words(question), answer) for question, answer in pairs]

    def reply(self, question):
        asked = words(question)
        scores = [len(asked & known) / max(1, len(asked | known)) for known, _ in self.pairs]
        return self.pairs[scores.index(max(scores))][1]


def json_lines(data):
    return [json.loads(line) for line in data.decode().splitlines() if line.strip()]


@contextlib.contextmanager
def serving(app):
    live = Live(app)
    try:
        yield live
    finally:
        live.stop()
