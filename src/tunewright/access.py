"""API keys: who may ask for what. A key is shown once; the database keeps its SHA-256.

Keys have 256 random bits, so a plain hash is enough: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from sqlalchemy import insert, select, update

from tunewright.database.engine import Database
from tunewright.database.tables import API_KEYS
from tunewright.errors import UserError
from tunewright.settings import Quota

SCOPES = ("read", "infer", "tune", "admin")
"""read: look at jobs, runs, releases. infer: ask models. tune: files, jobs. admin: the rest."""
PREFIX = "tw-"
NO_QUOTA = Quota()
LOOK_AGAIN_S = 2.0
"""A key that another process revoked is refused after so long at most."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. id "" is the owner of a server on loopback that has no keys.

    owner: whose files, jobs and models it sees; None sees all. quota: its own limits.
    """

    id: str
    scopes: frozenset[str]
    owner: str | None = None
    quota: Quota = NO_QUOTA

    def may(self, scope: str) -> bool:
        """Whether it may do what needs this scope; admin may do everything."""
        return scope in self.scopes or "admin" in self.scopes


EVERYBODY = Caller("", frozenset(SCOPES))


def create_key(
    database: Database,
    name: str,
    scopes: Iterable[str],
    *,
    owner: str = "",
    expires_in_days: float | None = None,
    quota: Mapping[str, Any] | None = None,
) -> tuple[str, dict[str, Any]]:
    """(the key, to be shown once; what is kept of it).

    quota: limits of its own, by name. Raises UserError for an unknown scope or limit.
    """
    wanted = sorted(set(scopes))
    unknown = [scope for scope in wanted if scope not in SCOPES]
    if unknown or not wanted:
        named = unknown[0] if unknown else "none"
        raise UserError(f"scope {named!r}: unknown; use some of {', '.join(SCOPES)}")
    if not name or len(name) > 128 or not name.isprintable():
        raise UserError("key: give it a name of 1 to 128 printable characters")
    if len(owner) > 64:
        raise UserError("--project: at most 64 characters")
    key = PREFIX + secrets.token_urlsafe(32)
    now = int(time.time())
    row = {
        "id": "key-" + secrets.token_hex(8),
        "owner": owner,
        "name": name,
        "sha256": _digest(key),
        "ending": key[-4:],
        "scopes": wanted,
        "created_at": now,
        "expires_at": None if expires_in_days is None else now + int(86400 * expires_in_days),
        "quota": _checked_quota(quota),
    }
    with database.writing() as connection:
        connection.execute(insert(API_KEYS).values(**row))
    return key, shown_key({**row, "revoked_at": None})


def list_keys(database: Database) -> list[dict[str, Any]]:
    """All keys, the oldest first, without what could be used."""
    with database.reading() as connection:
        rows = connection.execute(select(API_KEYS).order_by(API_KEYS.c.number)).mappings()
        return [shown_key(dict(row)) for row in rows]


def revoke_key(database: Database, key_id: str) -> None:
    """Refuse a key from now on. Raises UserError when there is no such key in force."""
    with database.writing() as connection:
        done = connection.execute(
            update(API_KEYS)
            .where(API_KEYS.c.id == key_id, API_KEYS.c.revoked_at.is_(None))
            .values(revoked_at=int(time.time()))
        )
    if not done.rowcount:
        raise UserError(f"key {key_id!r}: no such key in force; `tunewright keys list` shows them")


def shown_key(row: dict[str, Any]) -> dict[str, Any]:
    """A key as it may be shown: everything but its hash."""
    return {name: value for name, value in row.items() if name not in ("number", "sha256")}


class KeyRing:
    """Tells who sent a key: those of the environment (admin), and those of the database.

    given: whole keys. The database is read again when LOOK_AGAIN_S have gone by.
    """

    def __init__(self, given: Sequence[str] = (), database: Database | None = None) -> None:
        self._given = [bytes.fromhex(_digest(key)) for key in given]
        self._database = database
        self._known: list[tuple[bytes, Caller, int | None]] = []
        self._read_at = float("-inf")
        self.refresh()

    @property
    def is_empty(self) -> bool:
        """No key was ever made: everybody on this machine may ask for everything."""
        self._look_again()
        return not self._given and not self._known

    def find(self, key: bytes) -> Caller | None:
        """Whose key it is, or None. Every key is compared, so that the time tells nothing."""
        self._look_again()
        digest = hashlib.sha256(key).digest()
        found: Caller | None = None
        for known in self._given:
            if hmac.compare_digest(digest, known):
                found = Caller("environment", frozenset(SCOPES))
        for known, caller, ends_at in self._known:
            in_force = ends_at is None or time.time() < ends_at
            if hmac.compare_digest(digest, known) and in_force:
                found = caller
        return found

    def is_in_force(self, caller: Caller) -> bool:
        """Whether the key of somebody who logged in with it is still good."""
        self._look_again()
        if caller.id == "environment":
            return bool(self._given)
        ends = [ends_at for _, known, ends_at in self._known if known.id == caller.id]
        return bool(ends) and (ends[0] is None or time.time() < ends[0])

    def refresh(self) -> None:
        """Read the database now."""
        if self._database is None:
            return
        with self._database.reading() as connection:
            rows = connection.execute(select(API_KEYS)).mappings().all()
        self._known = [
            (
                bytes.fromhex(row["sha256"]),
                Caller(
                    row["id"], frozenset(row["scopes"]), _owner(row), Quota(**(row["quota"] or {}))
                ),
                # A revoked key has ended; that it is known keeps the server closed.
                0 if row["revoked_at"] is not None else row["expires_at"],
            )
            for row in rows
        ]
        self._read_at = time.monotonic()

    def _look_again(self) -> None:
        if self._database is not None and time.monotonic() - self._read_at > LOOK_AGAIN_S:
            self.refresh()


def _owner(row: Any) -> str | None:
    """Keys without a project, and admins, see everything."""
    return None if "admin" in row["scopes"] or not row["owner"] else str(row["owner"])


def _checked_quota(given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Limits by name. Raises UserError."""
    if not given:
        return None
    try:
        return Quota(**given).model_dump(exclude_none=True)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "?"
        known = ", ".join(Quota.model_fields)
        raise UserError(f"--quota {name}: {first['msg']}; there are {known}") from None


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
