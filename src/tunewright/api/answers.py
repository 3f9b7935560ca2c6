"""Answers on their way from the engine's thread to HTTP: awaited whole, or streamed by piece."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request as HttpRequest

from tunewright.access import EVERYBODY, Caller
from tunewright.api.census import CALLER
from tunewright.api.errors import ApiError
from tunewright.model.engine import Request, Token
from tunewright.serve.text import TextServer

T = TypeVar("T")
LOOK_EVERY_S = 0.5
"""How often a waiting request looks whether its client is still there."""


class NoClient:
    """Stands where a request would, for answers that nobody waits for. It never goes away."""

    def __init__(self, caller: Caller = EVERYBODY) -> None:
        self.scope: dict[str, Any] = {CALLER: caller}

    async def is_disconnected(self) -> bool:
        """Never."""
        return False


@dataclass
class Written:
    """One answer. tokens: those of its text, the end token left out."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish_reason: str = "stop"


class Stream:
    """The tokens of one request. Leaving its context cancels what is not yet written."""

    def __init__(self, runner: TextServer, request: Request, deadline_s: float) -> None:
        self.runner, self.request = runner, request
        self.deadline_s = deadline_s
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Token] = asyncio.Queue()
        self._number: int | None = None

    async def __aenter__(self) -> Stream:
        self._number = self.runner.submit(self.request, self._hear)
        self._ends_at = self._loop.time() + self.deadline_s
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._number is not None:
            self.runner.cancel(self._number)

    async def tokens(self, http: HttpRequest) -> AsyncIterator[Token]:
        """Tokens until the end. Raises ApiError on failure, at the deadline, or without client."""
        while True:
            token = await self._next(http)
            if token.ended == "error":
                raise ApiError(500, "the answer could not be written", kind="server_error")
            if token.ended is not None:
                self._number = None
            yield token
            if token.ended is not None:
                return

    async def _next(self, http: HttpRequest) -> Token:
        while True:
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(self._queue.get(), LOOK_EVERY_S)
            if self._loop.time() > self._ends_at:
                raise ApiError(504, f"no answer within {self.deadline_s:g} s", kind="server_error")
            if await http.is_disconnected():
                raise ApiError(499, "the client went away")

    def _hear(self, token: Token) -> None:
        with contextlib.suppress(RuntimeError):  # the loop may be closing
            self._loop.call_soon_threadsafe(self._queue.put_nowait, token)


async def write_all(
    runner: TextServer, requests: Sequence[Request], http: HttpRequest, deadline_s: float
) -> list[Written]:
    """Whole answers to several requests, side by side in one batch."""
    tasks = [asyncio.create_task(_write(runner, item, http, deadline_s)) for item in requests]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _write(
    runner: TextServer, request: Request, http: HttpRequest, deadline_s: float
) -> Written:
    written = Written()
    async with Stream(runner, request, deadline_s) as stream:
        async for token in stream.tokens(http):
            take(written, token, runner.ends)
    return written


async def wait_for(answer: Awaitable[T], http: HttpRequest, deadline_s: float) -> T:
    """An answer that comes in one piece. Raises ApiError at the deadline and without client."""
    task = asyncio.ensure_future(answer)
    ends_at = asyncio.get_running_loop().time() + deadline_s
    try:
        while True:
            done, _ = await asyncio.wait({task}, timeout=LOOK_EVERY_S)
            if done:
                return task.result()
            if asyncio.get_running_loop().time() > ends_at:
                raise ApiError(504, f"no answer within {deadline_s:g} s", kind="server_error")
            if await http.is_disconnected():
                raise ApiError(499, "the client went away")
    finally:
        task.cancel()


def take(written: Written, token: Token, ends: frozenset[int]) -> None:
    """Add a token to an answer."""
    written.text += token.text
    if token.id >= 0 and token.id not in ends:
        written.tokens.append(token)
    if token.ended is not None:
        written.finish_reason = "length" if token.ended == "length" else "stop"
