"""Opening, migrating, reading and writing."""

import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import event, insert, select, text, update

from tunewright.database.engine import open_database
from tunewright.database.migrate import newest
from tunewright.database.tables import METADATA, UPLOADS
from tunewright.errors import UserError


def upload(connection, name, size=0):
    values = {
        "id": name, "filename": "x", "purpose": "fine-tune", "mime_type": "text/jsonl",
        "bytes": size, "status": "pending", "created_at": 1, "expires_at": 2,
    }  # fmt: skip
    connection.execute(insert(UPLOADS).values(**values))


def test_versions_make_the_tables_that_queries_see(database):
    with database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
        assert (
            connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == newest()
        )


def test_opening_again_keeps_what_is_there(url):
    first = open_database(url)
    with first.writing() as connection:
        upload(connection, "one")
    second = open_database(url)
    with second.reading() as connection:
        assert connection.execute(select(UPLOADS.c.id)).scalars().all() == ["one"]
    first.close(), second.close()


def test_a_database_of_a_newer_version_is_refused(url):
    opened = open_database(url)
    with opened.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'v9999_later'"))
    opened.close()
    with pytest.raises(UserError, match="v9999_later"):
        open_database(url)


def test_a_block_that_raises_changes_nothing(database):
    with pytest.raises(ZeroDivisionError), database.writing() as connection:
        upload(connection, "one")
        raise ZeroDivisionError
    with database.reading() as connection:
        assert connection.execute(select(UPLOADS.c.id)).all() == []


def test_writers_take_turns(database):
    """A count that many threads read and write: no addition is lost."""
    with database.writing() as connection:
        upload(connection, "count")

    def add():
        for _ in range(10):
            with database.writing() as connection:
                database.lock(connection, "count")
                seen = connection.execute(select(UPLOADS.c.bytes)).scalar()
                connection.execute(update(UPLOADS).values(bytes=seen + 1))

    threads = [threading.Thread(target=add) for _ in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    with database.reading() as connection:
        assert connection.execute(select(UPLOADS.c.bytes)).scalar() == 60


def test_many_share_a_commit_and_one_that_raises_undoes_itself_alone(database):
    failed, commits = [], []
    event.listen(database.engine, "commit", lambda connection: commits.append(1))

    def add(number):
        def work(connection):
            upload(connection, f"u{number}")
            if number % 5 == 0:
                raise ZeroDivisionError
            return number

        try:
            assert database.together(work) == number
        except ZeroDivisionError:
            failed.append(number)

    threads = [threading.Thread(target=add, args=(n,)) for n in range(40)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    with database.reading() as connection:
        kept = set(connection.execute(select(UPLOADS.c.id)).scalars())
    assert sorted(failed) == list(range(0, 40, 5))
    assert kept == {f"u{n}" for n in range(40) if n % 5}
    assert 1 <= len(commits) <= 40


def test_sqlite_keeps_what_it_acknowledged(tmp_path):
    opened = open_database(f"sqlite:///{tmp_path / 'a.sqlite'}")
    with opened.reading() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2
    opened.close()


@pytest.mark.parametrize(
    "url",
    ["nonsense", "mysql://u@h/d", "sqlite:////no/such/folder/x", "postgresql://u@127.0.0.1:1/d"],
)
def test_what_cannot_be_opened_is_told_in_one_line(url):
    with pytest.raises(UserError, match="database") as told:
        open_database(url)
    assert "\n" not in str(told.value)
