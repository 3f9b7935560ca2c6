"""What the routes of files and jobs share: cursors, lists, owners, who may not be found."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from fastapi import Request as HttpRequest

from tunewright.api.census import caller_of
from tunewright.api.errors import ApiError
from tunewright.api.state import state_of
from tunewright.jobs.home import Home
from tunewright.jobs.paging import Page, Record, UnknownCursor

T = TypeVar("T")


def home_of(http: HttpRequest) -> Home:
    """The store of this server. Raises ApiError 404 where it serves models alone."""
    home = state_of(http).home
    if home is None:
        raise ApiError(404, "this server keeps no files and jobs; it serves models alone")
    return home


def owner_of(http: HttpRequest) -> str | None:
    """Whose things a request may see; None sees all."""
    return caller_of(http).owner


async def asked(what: str, name: str, call: Callable[..., T], *args: Any, **options: Any) -> T:
    """Call the store off the event loop. Raises ApiError 404 for what is not there."""
    with _told(what, name):
        return await asyncio.to_thread(call, *args, **options)


async def looked_up(
    http: HttpRequest, what: str, name: str, call: Callable[..., T], *args: Any, **options: Any
) -> T:
    """`asked` for one row that is only read: together with the reads of others."""
    reads = state_of(http).reads
    assert reads is not None
    with _told(what, name):
        return await reads.read(partial(call, *args, **options))


@contextmanager
def _told(what: str, name: str) -> Iterator[None]:
    try:
        yield
    except UnknownCursor as error:
        raise ApiError(400, f"after: no such object: {error.args[0]}", param="after") from None
    except KeyError:
        raise ApiError(404, f"No such {what}: {name}", param="id", code="not_found") from None


def listing(page: Page, show: Callable[[Record], dict[str, Any]]) -> dict[str, Any]:
    """The envelope of a list."""
    data = [show(row) for row in page.rows]
    ends: Iterable[Any] = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    first, last = ends
    return {
        "object": "list", "data": data, "has_more": page.has_more,
        "first_id": first, "last_id": last,
    }  # fmt: skip
