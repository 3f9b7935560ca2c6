"""Opening the server's database: SQLite in WAL mode by default, PostgreSQL by URL.

Reads and writes are told apart: `reading()` sees one snapshot, `writing()` holds the write lock
from its first statement on (SQLite would otherwise let two readers promise each other a write).
What is committed has reached the disk: synchronous=FULL, because WAL with NORMAL may lose the last
commits when the power goes.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from tunewright.database.migrate import upgrade
from tunewright.errors import UserError

BUSY_TIMEOUT_S = 30
NUM_CONNECTIONS = 48
WRITES = "tunewright_writes"
T = TypeVar("T")


class Database:
    """One open database; may be used from any thread."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._writer = engine.execution_options(**{WRITES: True})
        self._leader = threading.Lock()
        self._shared = threading.local()
        self._waiting: deque[_Work[Any]] = deque()
        # SQLite's own waiting is sleep and retry; threads of one process had better queue.
        self._turn = threading.Lock() if self.is_sqlite else nullcontext()

    @property
    def is_sqlite(self) -> bool:
        """True for the embedded database, of which one process at a time writes."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one state of things and changes nothing."""
        shared = getattr(self._shared, "connection", None)
        if shared is not None:
            yield shared
            return
        with self.engine.connect() as connection:
            yield connection

    @contextmanager
    def sharing(self) -> Iterator[Connection]:
        """Every `reading()` of this thread within the block goes through one connection.

        On SQLite all of them see the state of the first.
        """
        with self.engine.connect() as connection:
            self._shared.connection = connection
            try:
                yield connection
            finally:
                self._shared.connection = None

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction: committed, and on disk, when the block ends; undone when it raises."""
        with self._turn, self._writer.begin() as connection:
            yield connection

    def together(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction that it shares with whatever else waits for one just then.

        Reaching the disk takes far longer than the statements, so many callers are told of one
        commit. A work that raises undoes itself alone.
        """
        mine: _Work[T] = _Work(work)
        self._waiting.append(mine)
        with self._leader:
            if not mine.done:
                self._run_waiting()
        return mine.answer()

    def _run_waiting(self) -> None:
        works = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            with self.writing() as connection:
                for item in works:
                    item.run(connection)
        except BaseException as error:
            for item in works:
                item.error = item.error or error
        for item in works:
            item.done = True

    def lock(self, connection: Connection, what: str) -> None:
        """Let one transaction at a time go on for this name. SQLite's writers take turns anyway."""
        if not self.is_sqlite:
            digest = hashlib.sha256(what.encode()).digest()
            number = int.from_bytes(digest[:8], "big", signed=True)
            connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": number})

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()


class _Work(Generic[T]):
    """What one caller wants done, and what came of it."""

    def __init__(self, work: Callable[[Connection], T]) -> None:
        self.work, self.done = work, False
        self.value: T | None = None
        self.error: BaseException | None = None

    def run(self, connection: Connection) -> None:
        try:
            with connection.begin_nested():
                self.value = self.work(connection)
        except Exception as error:  # the caller's own; the others go on
            self.error = error

    def answer(self) -> T:
        if self.error is not None:
            raise self.error
        return cast(T, self.value)


def open_database(url: str) -> Database:
    """Open a database and bring its tables up to date. Raises UserError when it cannot be opened.

    url: as SQLAlchemy takes it; `sqlite_url(path)` makes that of a file.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise UserError(f"database {url!r}: not a database URL ({error})") from None
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise UserError(f"database {parsed.drivername}: give sqlite:///FILE or postgresql://...")
    shown = parsed.render_as_string(hide_password=True)
    try:
        engine = _make_engine(parsed)
    except (ImportError, NoSuchModuleError):
        raise UserError(
            f"database {shown}: psycopg is not installed; pip install 'tunewright[postgres]'"
        ) from None
    database = Database(engine)
    try:
        with database.writing() as connection:
            database.lock(connection, "tunewright migrations")
            upgrade(connection)
    except DBAPIError as error:
        engine.dispose()
        reason = str(error.orig).strip().splitlines()[0]
        raise UserError(f"database {shown}: cannot be opened ({reason}); check the URL") from None
    return database


def sqlite_url(path: Path) -> str:
    """The URL of a database in a file."""
    return f"sqlite:///{path.absolute()}"


def _make_engine(url: Any) -> Engine:
    if url.get_backend_name() == "sqlite":
        engine = create_engine(
            url, pool_size=NUM_CONNECTIONS, max_overflow=0, connect_args={"timeout": BUSY_TIMEOUT_S}
        )
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    return create_engine(url, pool_size=NUM_CONNECTIONS, max_overflow=0, pool_pre_ping=True)


def _set_up_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # transactions are begun by us, see _begin_sqlite
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_S * 1000}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
