"""A server's store, opened: database, folder and settings together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tunewright.database.engine import Database, open_database, sqlite_url
from tunewright.jobs.files import clear_incoming
from tunewright.settings import ServerFolder, ServerSettings, read_settings, server_folder


@dataclass(frozen=True, slots=True)
class Home:
    """What files and jobs are kept in."""

    database: Database
    folder: ServerFolder
    settings: ServerSettings


def open_home(given: Path | None = None, bases: Mapping[str, str] | None = None) -> Home:
    """Open a server's folder, made where it is missing. bases: names to local bases, on top of
    those of the settings. Raises UserError."""
    folder = server_folder(given)
    folder.make()
    settings = read_settings(folder, dict(bases or {}))
    clear_incoming(folder)
    return Home(open_database(settings.database or sqlite_url(folder.database)), folder, settings)
