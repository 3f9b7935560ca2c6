"""Releases: versions of a name, each a finished run at a stage. Kept in the server's database.

    candidate -> shadow -> canary -> production -> archived

Of one name at most one version is in production, one in canary and one in shadow; a version that
takes a place sends the one before it to the archive. Every move is written down.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, func, insert, select, update

from tunewright.database.engine import Database
from tunewright.database.tables import RELEASE_EVENTS, RELEASES
from tunewright.errors import UserError

Stage = Literal["candidate", "shadow", "canary", "production", "archived"]
STAGES: tuple[Stage, ...] = ("candidate", "shadow", "canary", "production", "archived")
ALONE = ("shadow", "canary", "production")
"""Stages that one version of a name has for itself."""
GATED = ("canary", "production")
"""Stages in which answers reach users."""
DEFAULT_SHARE = 0.1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class Release:
    """One version. share: of the requests, in canary. run: its folder.

    lineage: hashes of base, model and data, the recipe, the scores. gate: what was checked.
    """

    name: str
    version: int
    stage: Stage
    share: float | None
    run: str
    lineage: Mapping[str, Any]
    gate: Sequence[Mapping[str, Any]]
    created_at: int
    changed_at: int

    @property
    def id(self) -> str:
        """NAME@VERSION: what it can be asked for by itself."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class Move:
    """A version went from one stage to another."""

    name: str
    version: int
    at: int
    was: str
    stage: str
    share: float | None
    who: str
    why: str


def check_name(name: str) -> str:
    """The name of a release, when it is one. Raises UserError."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"release name {name[:80]!r}: letters, digits, dot, dash and underscore, at most 63"
        )
    return name


def add_release(
    database: Database,
    name: str,
    run: str,
    lineage: Mapping[str, Any],
    *,
    who: str,
) -> Release:
    """Enter a run as the next version of a name, a candidate; one that is in stays as it is."""
    check_name(name)
    now = int(time.time())
    with database.writing() as connection:
        database.lock(connection, f"release {name}")
        known = _rows(connection, name)
        for release in known:
            if release.run == run and release.lineage.get("model") == lineage.get("model"):
                return release
        version = max((release.version for release in known), default=0) + 1
        values = {
            "name": name, "version": version, "stage": "candidate", "share": None, "run": run,
            "lineage": dict(lineage), "gate": [], "created_at": now, "changed_at": now,
        }  # fmt: skip
        connection.execute(insert(RELEASES).values(**values))
        _note(connection, name, version, "", "candidate", None, who, "entered")
        return _find(connection, name, version)


def move_release(
    database: Database,
    name: str,
    version: int,
    stage: Stage,
    *,
    who: str,
    why: str,
    share: float | None = None,
    gate: Sequence[Mapping[str, Any]] | None = None,
) -> Release:
    """Put a version on a stage; the one that was there goes to the archive. Raises UserError."""
    if stage not in STAGES:
        raise UserError(f"stage {stage!r}: unknown; use one of {', '.join(STAGES)}")
    if stage == "canary":
        share = DEFAULT_SHARE if share is None else share
        if not 0 < share < 1:
            raise UserError(f"share {share:g}: must lie between 0 and 1")
    elif share is not None:
        raise UserError("share: only a canary has one")
    with database.writing() as connection:
        database.lock(connection, f"release {name}")
        now = _find(connection, name, version)
        if stage in ALONE:
            for other in _rows(connection, name):
                if other.stage == stage and other.version != version:
                    _set(connection, other, "archived", None, who, f"{now.id} took its place")
        _set(connection, now, stage, share, who, why, gate)
        return _find(connection, name, version)


def roll_back(database: Database, name: str, *, who: str) -> Release:
    """Bring the version back that was in production before, and end a canary. Raises UserError."""
    with database.writing() as connection:
        database.lock(connection, f"release {name}")
        rows = {release.version: release for release in _rows(connection, name)}
        if not rows:
            raise UserError(f"release {name!r}: there is none; `tunewright release list` shows all")
        champion = next((r for r in rows.values() if r.stage == "production"), None)
        before = _champions_before(connection, name, champion)
        target = next((rows[version] for version in before if version in rows), None)
        if target is None:
            raise UserError(f"release {name!r}: nothing was in production before; promote another")
        why = f"rolled back from {champion.id}" if champion else "rolled back"
        for release in rows.values():
            if release.stage in GATED:
                _set(connection, release, "archived", None, who, why)
        _set(connection, target, "production", None, who, why)
        return _find(connection, name, target.version)


def list_releases(database: Database, name: str | None = None) -> list[Release]:
    """All versions, by name, the newest first."""
    with database.reading() as connection:
        return _rows(connection, name)


def get_release(database: Database, name: str, version: int) -> Release:
    """One version. Raises UserError."""
    with database.reading() as connection:
        return _find(connection, name, version)


def list_moves(database: Database, name: str | None = None, *, most: int = 100) -> list[Move]:
    """What happened, the newest first."""
    table = RELEASE_EVENTS
    query = select(table).order_by(table.c.number.desc()).limit(most)
    if name is not None:
        query = query.where(table.c.name == name)
    with database.reading() as connection:
        rows = connection.execute(query).mappings()
        return [Move(**{key: row[key] for key in Move.__dataclass_fields__}) for row in rows]


def newest_move(database: Database) -> int:
    """A number that grows with every move: whether there is news."""
    with database.reading() as connection:
        return int(connection.execute(select(func.max(RELEASE_EVENTS.c.number))).scalar() or 0)


def _champions_before(connection: Connection, name: str, champion: Release | None) -> list[int]:
    """Versions that were in production before the champion, the last first.

    A version that was rolled back from is not come back to.
    """
    table = RELEASE_EVENTS
    rows = connection.execute(
        select(table).where(table.c.name == name).order_by(table.c.number)
    ).mappings()
    past: list[int] = []
    for row in rows:
        if row["stage"] != "production":
            continue
        version = int(row["version"])
        if row["why"].startswith("rolled back") and version in past:
            past = past[: past.index(version)]
        past = [*(v for v in past if v != version), version]
    if champion is not None and champion.version in past:
        past = past[: past.index(champion.version)]
    return past[::-1]


def _set(
    connection: Connection,
    release: Release,
    stage: Stage,
    share: float | None,
    who: str,
    why: str,
    gate: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    values: dict[str, Any] = {"stage": stage, "share": share, "changed_at": int(time.time())}
    if gate is not None:
        values["gate"] = [dict(check) for check in gate]
    connection.execute(
        update(RELEASES)
        .where(RELEASES.c.name == release.name, RELEASES.c.version == release.version)
        .values(**values)
    )
    _note(connection, release.name, release.version, release.stage, stage, share, who, why)


def _note(
    connection: Connection,
    name: str,
    version: int,
    was: str,
    stage: str,
    share: float | None,
    who: str,
    why: str,
) -> None:
    connection.execute(
        insert(RELEASE_EVENTS).values(
            name=name, version=version, at=int(time.time()), was=was, stage=stage, share=share,
            who=who, why=why,
        )
    )  # fmt: skip


def _rows(connection: Connection, name: str | None) -> list[Release]:
    query = select(RELEASES).order_by(RELEASES.c.name, RELEASES.c.version.desc())
    if name is not None:
        query = query.where(RELEASES.c.name == name)
    return [_read(row) for row in connection.execute(query).mappings()]


def _find(connection: Connection, name: str, version: int) -> Release:
    row = connection.execute(
        select(RELEASES).where(RELEASES.c.name == name, RELEASES.c.version == version)
    ).mappings().first()  # fmt: skip
    if row is None:
        raise UserError(
            f"release {name}@{version}: there is none; `tunewright release list` shows all"
        )
    return _read(row)


def _read(row: Any) -> Release:
    return Release(**{key: row[key] for key in Release.__dataclass_fields__})
