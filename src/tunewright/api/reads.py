"""Short reads of many requests together: one hop to a thread, one connection, for all that wait.

A read of one row costs less than handing it to a thread and opening a snapshot for it. So those
that come while others are under way go together in the next round. Each round begins after its
reads have come, so whoever was told of a write sees it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy.exc import DBAPIError

from tunewright.database.engine import Database

T = TypeVar("T")
MOST = 64
"""Reads in one round: the first of them waits for the last."""
_Answer = tuple[Any, Exception | None]
_Waiting = tuple[Callable[[], Any], asyncio.Future[Any]]


class Reads:
    """The reads of one event loop."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._waiting: list[_Waiting] = []
        self._rounds: asyncio.Task[None] | None = None

    async def read(self, call: Callable[[], T]) -> T:
        """What the call gives, or raises; it must be short and only read."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, future))
        if self._rounds is None or self._rounds.done():
            self._rounds = asyncio.create_task(self._go_round())
        return await future

    async def _go_round(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            answers: list[_Answer]
            try:
                answers = await asyncio.to_thread(self._run, [call for call, _ in batch])
            except Exception as error:
                answers = [(None, error)] * len(batch)
            for (_, future), (value, fault) in zip(batch, answers, strict=True):
                if future.done():  # its client went away
                    continue
                if fault is None:
                    future.set_result(value)
                else:
                    future.set_exception(fault)

    def _run(self, calls: list[Callable[[], Any]]) -> list[_Answer]:
        answers: list[_Answer] = []
        with self.database.sharing() as connection:
            for call in calls:
                try:
                    answers.append((call(), None))
                except DBAPIError as error:
                    answers.append((None, error))
                    connection.rollback()  # PostgreSQL would refuse the others
                except Exception as error:
                    answers.append((None, error))
        return answers
