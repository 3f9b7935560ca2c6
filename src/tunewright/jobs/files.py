"""Uploaded files: their rows in the database, their bytes in the server's folder.

A file is written aside first, then fsynced, moved to its place and only then written down; so what
the table lists is on disk whole, and a cut upload leaves nothing but a temporary name.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from sqlalchemy import Connection, delete, insert, update

from tunewright.database.engine import Database
from tunewright.database.tables import FILES
from tunewright.jobs.paging import Page, Record, find_by_id, new_id, owned, read_page
from tunewright.settings import ServerFolder
from tunewright.store import naming_disk_errors, sync_folder

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
RESULTS = "fine-tune-results"


class TooLarge(ValueError):
    """More bytes than may come."""


class Incoming:
    """A file on its way in. Leaving the context without `keep` removes it."""

    def __init__(self, folder: ServerFolder, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self.path = folder.incoming / f"{os.getpid()}-{new_id('')}"
        self.size = 0
        self._digest = hashlib.sha256()

    def __enter__(self) -> Incoming:
        with naming_disk_errors(self.path):
            self._file = open(self.path, "xb", buffering=0)
        return self

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes. Raises TooLarge, DiskFull."""
        if self.size + len(data) > self.max_bytes:
            raise TooLarge(f"larger than {self.max_bytes} bytes")
        with naming_disk_errors(self.path):
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
        self._digest.update(data)
        self.size += len(data)

    def keep(self, target: Path) -> str:
        """Move to `target`, safe on disk; returns the SHA-256."""
        with naming_disk_errors(target):
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self.path, target)
            sync_folder(target.parent)
        return self._digest.hexdigest()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)


def add_file(
    database: Database,
    folder: ServerFolder,
    incoming: Incoming,
    *,
    filename: str,
    purpose: str,
    owner: str = "",
    expires_after_s: int | None = None,
    status: str = "processed",
    key_id: str = "",
    check: Callable[[Connection], None] | None = None,
) -> Record:
    """Keep an incoming file; returns its row once both are on disk.

    check: may still refuse it, within the transaction that enters it.
    """
    file_id, now = new_id("file-"), int(time.time())
    sha256 = incoming.keep(folder.file(file_id))
    values = {
        "id": file_id,
        "owner": owner,
        "filename": filename,
        "purpose": purpose,
        "bytes": incoming.size,
        "sha256": sha256,
        "created_at": now,
        "expires_at": None if expires_after_s is None else now + expires_after_s,
        "status": status,
        "key_id": key_id,
    }
    try:
        with database.writing() as connection:
            if check is not None:
                check(connection)
            connection.execute(insert(FILES).values(values))
    except BaseException:
        folder.file(file_id).unlink(missing_ok=True)
        raise
    return get_file(database, file_id, owner=owner)


def get_file(database: Database, file_id: str, *, owner: str | None = None) -> Record:
    """One file. Raises KeyError."""
    with database.reading() as connection:
        row = find_by_id(connection, FILES, file_id, owner)
    if row is None:
        raise KeyError(file_id)
    return row


def list_files(
    database: Database,
    *,
    owner: str | None = None,
    purpose: str | None = None,
    after: str | None = None,
    limit: int = 10_000,
    newest_first: bool = True,
) -> Page:
    """A page of files. Raises UnknownCursor."""
    conditions = owned(FILES, owner)
    if purpose is not None:
        conditions.append(FILES.c.purpose == purpose)
    with database.reading() as connection:
        return read_page(
            connection, FILES, conditions, after=after, limit=limit, newest_first=newest_first
        )


def delete_file(
    database: Database, folder: ServerFolder, file_id: str, *, owner: str | None = None
) -> None:
    """Forget a file and remove its bytes. Raises KeyError."""
    with database.writing() as connection:
        gone = connection.execute(delete(FILES).where(FILES.c.id == file_id, *owned(FILES, owner)))
    if not gone.rowcount:
        raise KeyError(file_id)
    folder.file(file_id).unlink(missing_ok=True)


def note_checked(
    database: Database,
    file_id: str,
    *,
    fault: str | None,
    num_rows: int | None = None,
    shape: str | None = None,
) -> None:
    """Write down what the look at a file's rows came to."""
    status = "processed" if fault is None else "error"
    values = {"status": status, "status_details": fault, "num_rows": num_rows, "shape": shape}
    with database.writing() as connection:
        connection.execute(update(FILES).where(FILES.c.id == file_id).values(values))


def unchecked(database: Database) -> Sequence[Record]:
    """Files whose rows nobody has looked at yet, the oldest first."""
    with database.reading() as connection:
        waiting = [FILES.c.status == "uploaded"]
        return read_page(connection, FILES, waiting, after=None, limit=100, newest_first=False).rows


def drop_expired(database: Database, folder: ServerFolder) -> int:
    """Delete files past their time; returns how many."""
    with database.reading() as connection:
        past = [FILES.c.expires_at < int(time.time())]
        rows = read_page(connection, FILES, past, after=None, limit=1000).rows
    for row in rows:
        delete_file(database, folder, row["id"])
    return len(rows)


def clear_incoming(folder: ServerFolder) -> None:
    """Remove what uploads left behind whose process is gone."""
    import psutil

    for path in folder.incoming.iterdir():
        pid = path.name.partition("-")[0]
        if not pid.isdigit() or int(pid) == os.getpid() or not psutil.pid_exists(int(pid)):
            path.unlink(missing_ok=True)
