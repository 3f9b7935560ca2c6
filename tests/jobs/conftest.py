"""A board on SQLite and on PostgreSQL."""

import pytest
from tests.postgres_server import new_database, running_postgres

from tunewright.database.engine import open_database, sqlite_url
from tunewright.jobs.board import Wish, add_job


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


def wish(**values):
    plain = {
        "model": "gpt-4o-mini-2024-07-18", "base_model": "base", "training_file": "file-1",
        "validation_file": None, "method": "supervised", "hyperparameters": {}, "suffix": "mine",
        "seed": 1, "metadata": None, "integrations": None, "organization": "local",
    }  # fmt: skip
    return Wish(**{**plain, **values})


@pytest.fixture
def add(database):
    def make(**values):
        with database.writing() as connection:
            return add_job(connection, wish(**values))

    return make
