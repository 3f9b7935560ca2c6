"""Pages of a table by cursor: the rows after an id, newest or oldest first."""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Table, bindparam, select

Record = Mapping[str, Any]
"""One row of a table, by column."""
_LETTERS = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class Page:
    """Rows, and whether more follow."""

    rows: tuple[Record, ...]
    has_more: bool


class UnknownCursor(KeyError):
    """`after` names nothing in this list."""


def new_id(prefix: str, length: int = 24) -> str:
    """An id that cannot be guessed: "ftjob-" and letters and digits."""
    return prefix + "".join(secrets.choice(_LETTERS) for _ in range(length))


def find(connection: Connection, table: Table, *conditions: ColumnElement[bool]) -> Record | None:
    """The one row that meets the conditions, or None."""
    row = connection.execute(select(table).where(*conditions)).mappings().first()
    return None if row is None else dict(row)


def find_by_id(
    connection: Connection, table: Table, row_id: str, owner: str | None = None
) -> Record | None:
    """The row of that id, where it is this owner's, or None. The query is built once."""
    asked = {"row_id": row_id} if owner is None else {"row_id": row_id, "row_owner": owner}
    row = connection.execute(_by_id(table, owner is not None), asked).mappings().first()
    return None if row is None else dict(row)


@lru_cache
def _by_id(table: Table, with_owner: bool) -> Select[Any]:
    query = select(table).where(table.c.id == bindparam("row_id"))
    return query.where(table.c.owner == bindparam("row_owner")) if with_owner else query


def read_page(
    connection: Connection,
    table: Table,
    conditions: Sequence[ColumnElement[bool]],
    *,
    after: str | None,
    limit: int,
    newest_first: bool = True,
) -> Page:
    """At most `limit` rows after the one whose id is `after`. Raises UnknownCursor."""
    number = table.c.number
    query = select(table).where(*conditions)
    if after is not None:
        cursor = connection.execute(
            select(number).where(*conditions, table.c.id == after)
        ).scalar_one_or_none()
        if cursor is None:
            raise UnknownCursor(after)
        query = query.where(number < cursor if newest_first else number > cursor)
    query = query.order_by(number.desc() if newest_first else number.asc()).limit(limit + 1)
    rows = [dict(row) for row in connection.execute(query).mappings()]
    return Page(tuple(rows[:limit]), len(rows) > limit)


def owned(table: Table, owner: str | None) -> list[ColumnElement[bool]]:
    """The condition that rows belong to an owner; none for None, who sees all."""
    return [] if owner is None else [table.c.owner == owner]
