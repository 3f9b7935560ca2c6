"""A text engine with a thread of its own: requests from any thread, tokens to their listeners.

TextServer is what the floors above ask for; TextRunner answers in this process, vllm.py by vLLM.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

from tunewright.errors import TunewrightError
from tunewright.model.engine import Engine, Request, Token
from tunewright.model.grammar import Grammar, compile_grammar
from tunewright.model.prompt_scores import Scores

Listener = Callable[[Token], None]


class Busy(TunewrightError):
    """Too many requests wait already; the client should come back later."""


class TextServer(Protocol):
    """What answers text requests, from any thread. Errors: Busy, and ModelError."""

    @property
    def num_requests(self) -> int:
        """Requests that wait or are under way."""

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end an answer."""

    def submit(self, request: Request, listener: Listener) -> int:
        """Queue a request; its tokens go to the listener. Returns a number for `cancel`."""

    def cancel(self, number: int) -> None:
        """End a request; its listener hears of it."""

    def space(self, prompt: Sequence[int], max_new_tokens: int) -> int:
        """New tokens that fit after a prompt."""

    def score(
        self, prompts: Sequence[Sequence[int]], adapter: str | None, tops: int
    ) -> Future[list[Scores]]:
        """How likely the prompts' own tokens are."""

    def grammar(self, schema: Mapping[str, Any]) -> Grammar:
        """What makes an answer JSON of a schema."""

    def add_adapter(self, name: str, folder: Path) -> None:
        """Load a LoRA adapter beside the others; blocks."""

    def drop_adapter(self, name: str) -> None:
        """Unload an adapter that no request follows; blocks."""

    def close(self) -> None:
        """Stop; requests under way hear "cancelled"."""


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

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end an answer."""
        return self.engine.ends

    def space(self, prompt: Sequence[int], max_new_tokens: int) -> int:
        """New tokens that fit after a prompt. Raises ModelError when none."""
        return self.engine.space(prompt, max_new_tokens)

    def score(
        self, prompts: Sequence[Sequence[int]], adapter: str | None, tops: int
    ) -> Future[list[Scores]]:
        """How likely the prompts' own tokens are, computed between two steps. Raises Busy."""
        if len(self._errands) >= self.max_waiting:
            raise Busy(f"{len(self._errands)} prompts wait already; come back later")
        return self.between_steps(lambda: self.engine.score(prompts, adapter=adapter, tops=tops))

    def grammar(self, schema: Mapping[str, Any]) -> Grammar:
        """What makes an answer JSON of a schema. Raises ModelError."""
        return compile_grammar(schema, self.engine.base.tokenizer, self.engine.ends)

    def add_adapter(self, name: str, folder: Path) -> None:
        """Load a LoRA adapter beside the others; blocks. Raises ModelError."""
        self.between_steps(lambda: self.engine.add_adapter(name, folder)).result()

    def drop_adapter(self, name: str) -> None:
        """Unload an adapter; blocks. Raises ModelError while a request follows it."""
        self.between_steps(lambda: self.engine.drop_adapter(name)).result()

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
