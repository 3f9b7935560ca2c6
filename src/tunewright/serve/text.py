"""A text engine with a thread of its own: requests from any thread, tokens to their listeners."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from tunewright.errors import TunewrightError
from tunewright.model.engine import Engine, Request, Token

Listener = Callable[[Token], None]


class Busy(TunewrightError):
    """Too many requests wait already; the client should come back later."""


class TextRunner:
    """Steps an Engine as long as there is work.

    max_waiting: requests that may wait for a place; one more raises Busy.
    """

    def __init__(self, engine: Engine, *, max_waiting: int = 256) -> None:
        self.engine, self.max_waiting = engine, max_waiting
        self._listeners: dict[int, Listener] = {}
        self._errands: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._awake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="text-engine", daemon=True)
        self._thread.start()

    @property
    def num_requests(self) -> int:
        """Requests that wait or are under way."""
        return len(self._listeners)

    def submit(self, request: Request, listener: Listener) -> int:
        """Queue a request; its tokens go to the listener, from the engine's thread.

        Returns a number for `cancel`. Raises Busy, and ModelError for what cannot be answered.
        """
        with self._awake:
            if len(self.engine.waiting) >= self.max_waiting:
                raise Busy(f"{len(self.engine.waiting)} requests wait already; come back later")
            number = self.engine.add(request)
            self._listeners[number] = listener
            self._awake.notify()
            return number

    def cancel(self, number: int) -> None:
        """End a request at the next step; its listener hears of it."""
        with self._awake:
            if number in self._listeners:
                self.engine.cancel(number)
                self._awake.notify()

    def between_steps(self, errand: Callable[[], Any]) -> Future[Any]:
        """Run something in the engine's thread, when no step is under way."""
        future: Future[Any] = Future()
        with self._awake:
            self._errands.append((errand, future))
            self._awake.notify()
        return future

    def close(self) -> None:
        """Stop the thread; requests under way hear "cancelled"."""
        with self._awake:
            self._closing = True
            self._awake.notify()
        self._thread.join()
        self._tell_all("cancelled")
        self.engine.close()

    def _run(self) -> None:
        while True:
            with self._awake:
                while not (self._closing or self._errands or self.engine.busy):
                    self._awake.wait()
                if self._closing:
                    return
                errands, self._errands = self._errands, deque()
            for errand, future in errands:
                _run_errand(errand, future)
            try:
                tokens = self.engine.step()
            except Exception:  # whatever it was, nobody may be left waiting
                self._start_over()
            else:
                self._tell(tokens)

    def _tell(self, tokens: list[Token]) -> None:
        with self._awake:
            heard = [(self._listeners.get(token.request), token) for token in tokens]
            for token in tokens:
                if token.ended is not None:
                    self._listeners.pop(token.request, None)
        for listener, token in heard:
            if listener is not None:
                listener(token)

    def _start_over(self) -> None:
        """A step failed: its requests end, those to come find a clean engine."""
        self.engine.active.clear()
        self.engine.waiting.clear()
        self.engine.decoder.clear()
        self._tell_all("error")

    def _tell_all(self, ended: str) -> None:
        with self._awake:
            numbers = list(self._listeners)
        self._tell([Token(number, -1, 0.0, "", ended, ()) for number in numbers])


def _run_errand(errand: Callable[[], Any], future: Future[Any]) -> None:
    try:
        future.set_result(errand())
    except Exception as error:  # the one who asked hears of it
        future.set_exception(error)
