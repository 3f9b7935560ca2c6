"""Large files that come in parts: begun, filled, then joined to an ordinary file or given up."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy import Connection, func, insert, select, update

from tunewright.database.engine import Database
from tunewright.database.tables import UPLOAD_PARTS, UPLOADS
from tunewright.jobs.files import Incoming, add_file, delete_file
from tunewright.jobs.paging import Record, find, new_id, owned
from tunewright.jobs.rows import first_line_fault
from tunewright.settings import MAX_PART_BYTES, ServerFolder, checked_id

LIFE_S = 3600
PIECE_BYTES = 1 << 22
Check = Callable[[Connection], None]


class UploadError(ValueError):
    """The upload cannot go on so."""


def begin(
    database: Database,
    *,
    filename: str,
    purpose: str,
    size: int,
    mime_type: str,
    owner: str = "",
    file_expires_s: int | None = None,
    key_id: str = "",
    check: Check | None = None,
) -> Record:
    """Begin an upload of `size` bytes. check: may refuse it, within the transaction."""
    now, upload_id = int(time.time()), new_id("upload_")
    with database.writing() as connection:
        if check is not None:
            check(connection)
        connection.execute(
            insert(UPLOADS).values(
                id=upload_id, owner=owner, filename=filename, purpose=purpose, bytes=size,
                mime_type=mime_type, status="pending", created_at=now, expires_at=now + LIFE_S,
                file_expires_s=file_expires_s, key_id=key_id,
            )
        )  # fmt: skip
    return get(database, upload_id)


def get(
    database: Database, upload_id: str, *, owner: str | None = None, open: bool = False
) -> Record:
    """One upload. open: it must still take parts. Raises KeyError, UploadError."""
    with database.reading() as connection:
        row = find(connection, UPLOADS, UPLOADS.c.id == upload_id, *owned(UPLOADS, owner))
    if row is None:
        raise KeyError(upload_id)
    if open and row["status"] == "pending" and row["expires_at"] < time.time():
        row = {**row, "status": "expired"}
    if open and row["status"] != "pending":
        raise UploadError(f"Upload {upload_id} is {row['status']}.")
    return row


def add_part(
    database: Database,
    folder: ServerFolder,
    upload_id: str,
    incoming: Incoming,
    *,
    owner: str | None = None,
) -> Record:
    """Keep a part that came whole. Raises KeyError, UploadError.

    Parts may come twice, for their first reply can be lost; no more is kept than that takes.
    """
    part_id = new_id("part_")
    path = _part_path(folder, upload_id, part_id)
    announced = int(get(database, upload_id, owner=owner, open=True)["bytes"])
    with database.reading() as connection:
        query = select(func.coalesce(func.sum(UPLOAD_PARTS.c.bytes), 0)).where(
            UPLOAD_PARTS.c.upload_id == upload_id
        )
        kept = int(connection.execute(query).scalar_one())
    if kept + incoming.size > 2 * announced + MAX_PART_BYTES:
        raise UploadError(f"The parts have far more than the {announced} bytes announced.")
    path.parent.mkdir(exist_ok=True)
    incoming.keep(path)
    with database.writing() as connection:
        made = {
            "id": part_id, "upload_id": upload_id, "bytes": incoming.size,
            "created_at": int(time.time()),
        }  # fmt: skip
        connection.execute(insert(UPLOAD_PARTS).values(made))
    return made


def complete(
    database: Database,
    folder: ServerFolder,
    upload_id: str,
    part_ids: Sequence[str],
    *,
    md5: str | None = None,
    owner: str | None = None,
    check: Check | None = None,
) -> Record:
    """Join the parts to a file; the upload has its file_id. Raises KeyError, UploadError."""
    upload = get(database, upload_id, owner=owner, open=True)
    with database.reading() as connection:
        query = select(UPLOAD_PARTS).where(UPLOAD_PARTS.c.upload_id == upload_id)
        parts = {row["id"]: row for row in connection.execute(query).mappings()}
    strangers = [part for part in part_ids if part not in parts]
    if strangers or len(set(part_ids)) != len(part_ids):
        raise UploadError(
            f"part_ids: {(strangers or part_ids)[0][:64]!r} is no part, or named twice."
        )
    size = sum(parts[part]["bytes"] for part in part_ids)
    if size != upload["bytes"]:
        raise UploadError(f"The parts have {size} bytes, not the {upload['bytes']} announced.")
    with Incoming(folder, size) as incoming:
        _join(incoming, [_part_path(folder, upload_id, part) for part in part_ids], md5)
        tunes = upload["purpose"] == "fine-tune"
        if tunes and (fault := first_line_fault(incoming.path)) is not None:
            raise UploadError(fault)
        file = add_file(
            database, folder, incoming, filename=upload["filename"], purpose=upload["purpose"],
            owner=upload["owner"], expires_after_s=upload["file_expires_s"],
            status="uploaded" if tunes else "processed", key_id=upload["key_id"], check=check,
        )  # fmt: skip
    try:
        return _end(database, folder, upload_id, "completed", file["id"])
    except UploadError:  # somebody else completed or cancelled it meanwhile
        delete_file(database, folder, file["id"])
        raise


def cancel(
    database: Database, folder: ServerFolder, upload_id: str, *, owner: str | None = None
) -> Record:
    """Give an upload up. Raises KeyError, UploadError."""
    get(database, upload_id, owner=owner, open=True)
    return _end(database, folder, upload_id, "cancelled", None)


def drop_expired_uploads(database: Database, folder: ServerFolder) -> int:
    """Mark uploads past their hour and remove their parts; returns how many."""
    with database.reading() as connection:
        past = select(UPLOADS.c.id).where(
            UPLOADS.c.status == "pending", UPLOADS.c.expires_at < int(time.time())
        )
        names = connection.execute(past).scalars().all()
    for name in names:
        _end(database, folder, name, "expired", None)
    return len(names)


def _join(incoming: Incoming, paths: Sequence[Path], md5: str | None) -> None:
    digest = hashlib.md5(usedforsecurity=False)
    for path in paths:
        with open(path, "rb") as file:
            while piece := file.read(PIECE_BYTES):
                incoming.write(piece)
                digest.update(piece)
    if md5 is not None and digest.hexdigest() != md5.lower():
        raise UploadError("The parts have another MD5 than was given.")


def _end(
    database: Database, folder: ServerFolder, upload_id: str, status: str, file_id: str | None
) -> Record:
    with database.writing() as connection:
        ended = connection.execute(
            update(UPLOADS)
            .where(UPLOADS.c.id == upload_id, UPLOADS.c.status == "pending")
            .values(status=status, file_id=file_id)
        )
    if not ended.rowcount:
        raise UploadError(f"Upload {upload_id} has ended already.")
    shutil.rmtree(folder.parts / checked_id(upload_id), ignore_errors=True)
    return get(database, upload_id)


def _part_path(folder: ServerFolder, upload_id: str, part_id: str) -> Path:
    return folder.parts / checked_id(upload_id) / checked_id(part_id)
