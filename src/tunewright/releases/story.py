"""Promote and roll back: what the command and the dashboard both do."""

from __future__ import annotations

from pathlib import Path

from tunewright.database.engine import Database
from tunewright.errors import UserError
from tunewright.journal import Journal
from tunewright.releases.board import (
    GATED,
    Release,
    Stage,
    add_release,
    get_release,
    list_releases,
    move_release,
)
from tunewright.releases.gate import check_release, read_lineage, refuse_failed


def enter_run(database: Database, run: Path, name: str | None, *, who: str) -> Release:
    """Make a finished run the next version of a name, by default its folder's. Raises UserError."""
    run = run.resolve()
    return add_release(database, name or run.name, str(run), read_lineage(run), who=who)


def find_version(database: Database, what: str) -> Release:
    """NAME@VERSION, or NAME for its newest version. Raises UserError."""
    name, at, number = what.partition("@")
    if at and number.isdigit():
        return get_release(database, name, int(number))
    known = [] if at else list_releases(database, name)
    if not known:
        raise UserError(f"release {what!r}: there is none; `tunewright release list` shows all")
    return known[0]


def promote(
    database: Database,
    release: Release,
    stage: Stage,
    journal: Journal,
    *,
    who: str,
    share: float | None = None,
    data: str | None = None,
) -> Release:
    """Move a version to a stage; where users will meet it, through the gate.

    Raises Refusal when the gate stays closed, UserError for what cannot be.
    """
    if stage not in GATED:
        return move_release(database, release.name, release.version, stage, who=who,
                            why="moved by hand", share=share)  # fmt: skip
    champion = next(
        (r for r in list_releases(database, release.name) if r.stage == "production"), None
    )
    checks = check_release(Path(release.run), champion, journal, data=data)
    refuse_failed(checks)
    return move_release(
        database, release.name, release.version, stage, who=who, why="passed the gate",
        share=share, gate=[check.plain() for check in checks],
    )  # fmt: skip
