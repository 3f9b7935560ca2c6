"""Requests, tokens and streams of each key: counted in memory over the last minute.

What is kept in the database (jobs, bytes) is counted there: jobs/quotas.py.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tunewright.access import Caller
from tunewright.api.errors import ApiError
from tunewright.settings import Quota

WINDOW_S = 60.0
Header = tuple[bytes, bytes]


@dataclass
class _Used:
    """What was used in the last minute. Both in the order of time."""

    marks: deque[tuple[float, int]] = field(default_factory=deque)
    total: int = 0

    def add(self, now: float, count: int) -> None:
        self.marks.append((now, count))
        self.total += count

    def forget(self, now: float) -> None:
        while self.marks and self.marks[0][0] <= now - WINDOW_S:
            self.total -= self.marks.popleft()[1]

    def frees_in_s(self, now: float, most: int) -> float:
        """Seconds until less than `most` is used."""
        left = self.total
        for at, count in self.marks:
            left -= count
            if left < most:
                return max(0.0, at + WINDOW_S - now)
        return 0.0


class Limits:
    """The limits of one server, for the event loop's thread. default: of keys without their own."""

    def __init__(self, default: Quota | None = None) -> None:
        self.default = default or Quota()
        self._requests: dict[str, _Used] = defaultdict(_Used)
        self._tokens: dict[str, _Used] = defaultdict(_Used)
        self._streams: dict[str, int] = defaultdict(int)

    def quota_of(self, caller: Caller) -> Quota:
        """What this caller may use. Admins, and a server without keys, have the limits that were
        given to them alone."""
        if not caller.id or "admin" in caller.scopes:
            return caller.quota
        return caller.quota.over(self.default)

    def enter(self, caller: Caller) -> list[Header]:
        """Count a request; returns headers that tell what is left. Raises ApiError 429."""
        quota, now = self.quota_of(caller), time.monotonic()
        headers: list[Header] = []
        for name, most, used in (
            ("tokens", quota.tokens_per_minute, self._tokens),
            ("requests", quota.requests_per_minute, self._requests),
        ):
            if most is None:
                continue
            mine = used[caller.id]
            mine.forget(now)
            if mine.total >= most:
                wait_s = 1 + int(mine.frees_in_s(now, most))
                raise ApiError(
                    429, f"quota {name}_per_minute: {mine.total} of {most} in the last minute; "
                    f"come back in {wait_s} s", kind="rate_limit_error",
                    code="rate_limit_exceeded", headers={"Retry-After": str(wait_s)},
                )  # fmt: skip
            if name == "requests":
                mine.add(now, 1)
            headers += [
                (f"x-ratelimit-limit-{name}".encode(), str(most).encode()),
                (f"x-ratelimit-remaining-{name}".encode(), str(most - mine.total).encode()),
            ]
        return headers

    def spend(self, caller: Caller, tokens: int) -> None:
        """Count tokens that were read and written."""
        if self.quota_of(caller).tokens_per_minute is not None:
            self._tokens[caller.id].add(time.monotonic(), tokens)

    @property
    def num_streams(self) -> int:
        """Streams of events that are open."""
        return sum(self._streams.values())

    def check_streams(self, caller: Caller) -> None:
        """Raise ApiError 429 unless the caller may open one more stream of events."""
        most = self.quota_of(caller).streams
        if most is not None and self._streams[caller.id] >= most:
            raise ApiError(
                429, f"quota streams: {most} at a time", kind="rate_limit_error",
                code="rate_limit_exceeded",
            )  # fmt: skip

    @contextmanager
    def streaming(self, caller: Caller) -> Iterator[None]:
        """Count a stream as long as the block lasts."""
        self._streams[caller.id] += 1
        try:
            yield
        finally:
            self._streams[caller.id] -= 1
            if not self._streams[caller.id]:
                del self._streams[caller.id]
