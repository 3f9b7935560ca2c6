"""Every test here runs on SQLite and on PostgreSQL."""

from database_fixture import database, postgres, url  # noqa: F401 - fixtures
