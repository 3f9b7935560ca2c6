"""A database on SQLite and on PostgreSQL, for tests that must hold on both."""

import pytest

from postgres_server import new_database, running_postgres
from tunewright.database.engine import open_database, sqlite_url


@pytest.fixture(scope="session")
def postgres():
    with running_postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "server.sqlite")
    return new_database(request.getfixturevalue("postgres"))


@pytest.fixture
def database(url):
    opened = open_database(url)
    yield opened
    opened.close()
