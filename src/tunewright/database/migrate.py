"""Bringing a database's tables up to date: the versions in versions/, by Alembic, at every start.

A table is added by a further file there: `revision` is its name, `down_revision` the one before.
Two that were written side by side are put in a row by changing the later one's `down_revision`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from tunewright.errors import UserError

VERSIONS = Path(__file__).parent / "versions"


def upgrade(connection: Connection) -> None:
    """Apply every version that the database does not have yet, within the open transaction.

    Raises UserError for a database that a newer Tunewright wrote.
    """
    script = ScriptDirectory(str(VERSIONS), version_locations=[str(VERSIONS)])
    known = {item.revision for item in script.walk_revisions()}

    def steps(current: Any, context: Any) -> Any:
        strangers = [name for name in context.get_current_heads() if name not in known]
        if strangers:
            raise UserError(
                f"database: its version {strangers[0]} is newer than this Tunewright; upgrade it"
            )
        return script._upgrade_revs("head", current)

    with EnvironmentContext(Config(), script, fn=steps) as environment:
        environment.configure(connection=connection, transactional_ddl=False)
        environment.run_migrations()


def newest() -> str:
    """Name of the newest version."""
    head = ScriptDirectory(str(VERSIONS), version_locations=[str(VERSIONS)]).get_current_head()
    assert head is not None
    return head
