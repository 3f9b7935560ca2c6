"""A board on SQLite and on PostgreSQL."""

import pytest

from database_fixture import database, postgres, url  # noqa: F401 - fixtures
from tunewright.jobs.board import Wish, add_job


def wish(**values):
    plain = {
        "model": "gpt-4o-mini-2024-07-18", "base_model": "base", "training_file": "file-1",
        "validation_file": None, "method": "supervised", "hyperparameters": {}, "suffix": "mine",
        "seed": 1, "metadata": None, "integrations": None, "organization": "local",
    }  # fmt: skip
    return Wish(**{**plain, **values})


@pytest.fixture
def add(database):  # noqa: F811 - the fixture
    def make(**values):
        with database.writing() as connection:
            return add_job(connection, wish(**values))

    return make
