"""/v1/files and /v1/uploads: streamed to disk, never held in memory, under names of ours."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi import Request as HttpRequest
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel, Field

from tunewright.api.census import caller_of
from tunewright.api.errors import ApiError
from tunewright.api.multipart import read_form
from tunewright.api.paging import asked, home_of, listing, looked_up, owner_of
from tunewright.api.replies import JSONResponse
from tunewright.api.state import state_of
from tunewright.jobs import files, uploads
from tunewright.jobs.home import Home
from tunewright.jobs.paging import Record
from tunewright.jobs.quotas import check_bytes
from tunewright.jobs.rows import check_rows, first_line_fault
from tunewright.settings import MAX_PART_BYTES, MAX_UPLOAD_BYTES

router = APIRouter()
NO_NUL = r"^[^\x00]*$"
"""PostgreSQL keeps no NUL in texts."""
MIN_EXPIRY_S, MAX_EXPIRY_S = 3600, 2_592_000
CHECKED_AT_ONCE_BYTES = 1 << 20
"""Rows of larger files are looked at by the worker: parsing would hold up everybody else."""


class ExpiresAfter(BaseModel):
    """When a file goes by itself."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=MIN_EXPIRY_S, le=MAX_EXPIRY_S)]


class UploadBody(BaseModel):
    """A large file that will come in parts."""

    filename: Annotated[str, Field(min_length=1, max_length=512, pattern=NO_NUL)]
    purpose: Literal["assistants", "batch", "fine-tune", "vision", "user_data"]
    bytes: Annotated[int, Field(ge=1, le=MAX_UPLOAD_BYTES)]
    mime_type: Annotated[str, Field(min_length=1, max_length=200, pattern=NO_NUL)]
    expires_after: ExpiresAfter | None = None


class CompleteBody(BaseModel):
    """The parts in their order."""

    part_ids: Annotated[
        list[Annotated[str, Field(max_length=64)]], Field(min_length=1, max_length=10_000)
    ]
    md5: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{32}$")] | None = None


@router.post("/v1/files")
async def create_file(http: HttpRequest) -> Response:
    """Upload a file."""
    home = home_of(http)
    with files.Incoming(home.folder, home.settings.max_file_bytes) as incoming:
        fields, filename = await read_form(http, "file", incoming.write)
        if filename is None:
            raise ApiError(400, "'file' is a required property", param="file")
        purpose = fields.get("purpose")
        if purpose not in files.PURPOSES:
            known = ", ".join(files.PURPOSES)
            raise ApiError(400, f"purpose: {str(purpose)[:40]!r}; use {known}", param="purpose")
        expiry = _expiry(fields)
        row = await asyncio.to_thread(
            _keep,
            home,
            incoming,
            filename,
            purpose,
            owner_of(http) or "",
            expiry,
            caller_of(http).id,
            _room_for(http, incoming.size),
        )
    return JSONResponse(show_file(row))


def _room_for(http: HttpRequest, size: int) -> uploads.Check:
    """Refuses what the caller's key may not keep beside what it has."""
    caller, database = caller_of(http), home_of(http).database
    quota = state_of(http).limits.quota_of(caller)
    return lambda connection: check_bytes(database, connection, caller.id, quota, size)


def _expiry(fields: dict[str, str]) -> int | None:
    seconds = fields.get("expires_after[seconds]")
    if seconds is None:
        return None
    if fields.get("expires_after[anchor]", "created_at") != "created_at":
        raise ApiError(400, "expires_after.anchor: use created_at", param="expires_after")
    number = int(seconds) if seconds.isascii() and seconds.isdigit() and len(seconds) < 10 else 0
    if not MIN_EXPIRY_S <= number <= MAX_EXPIRY_S:
        text = f"expires_after.seconds: give {MIN_EXPIRY_S} to {MAX_EXPIRY_S}"
        raise ApiError(400, text, param="expires_after")
    return number


def _keep(
    home: Home, incoming: files.Incoming, filename: str, purpose: str, owner: str,
    expiry: int | None, key_id: str, check: uploads.Check,
) -> Record:  # fmt: skip
    """Keep a file that came whole; the rows of a training file are looked at."""
    if incoming.size == 0:
        raise ApiError(400, "the file is empty", param="file")
    tunes = purpose == "fine-tune"
    if tunes and not filename.lower().endswith(".jsonl"):
        text = f"Invalid extension of {filename[-40:]!r}. Files for fine-tuning end in .jsonl"
        raise ApiError(400, text, param="file")
    if tunes and (fault := first_line_fault(incoming.path)) is not None:
        raise ApiError(400, fault)
    small = incoming.size <= CHECKED_AT_ONCE_BYTES
    checked = check_rows(incoming.path) if tunes and small else None
    row = files.add_file(
        home.database, home.folder, incoming, filename=filename, purpose=purpose, owner=owner,
        expires_after_s=expiry, status="uploaded" if tunes else "processed", key_id=key_id,
        check=check,
    )  # fmt: skip
    if checked is not None:
        files.note_checked(
            home.database, row["id"], fault=checked.fault, num_rows=checked.num_rows,
            shape=checked.shape,
        )  # fmt: skip
        return files.get_file(home.database, row["id"])
    return row


@router.get("/v1/files")
async def list_files(
    http: HttpRequest,
    purpose: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    after: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    """Files, the newest first."""
    page = await asked(
        "File object", str(after), files.list_files, home_of(http).database,
        owner=owner_of(http), purpose=purpose, after=after, limit=limit,
        newest_first=order == "desc",
    )  # fmt: skip
    return JSONResponse(listing(page, show_file))


@router.get("/v1/files/{file_id}")
async def retrieve_file(file_id: str, http: HttpRequest) -> Response:
    """One file."""
    return JSONResponse(show_file(await _file(http, file_id)))


@router.get("/v1/files/{file_id}/content")
async def file_content(file_id: str, http: HttpRequest) -> Response:
    """The bytes of a file."""
    row = await _file(http, file_id)
    path = home_of(http).folder.file(row["id"])
    if not path.exists():
        raise ApiError(404, f"No such File object: {file_id}", param="id")
    headers = {"Content-Disposition": "attachment", "X-Content-Type-Options": "nosniff"}
    return FileResponse(path, media_type="application/octet-stream", headers=headers)


@router.delete("/v1/files/{file_id}")
async def delete_file(file_id: str, http: HttpRequest) -> Response:
    """Delete a file."""
    home = home_of(http)
    await asked(
        "File object", file_id, files.delete_file, home.database, home.folder, file_id,
        owner=owner_of(http),
    )  # fmt: skip
    return JSONResponse({"id": file_id, "object": "file", "deleted": True})


@router.post("/v1/uploads")
async def create_upload(body: UploadBody, http: HttpRequest) -> Response:
    """Begin a file that comes in parts; it must be complete within an hour."""
    row = await asyncio.to_thread(
        uploads.begin, home_of(http).database, filename=body.filename, purpose=body.purpose,
        size=body.bytes, mime_type=body.mime_type, owner=owner_of(http) or "",
        file_expires_s=body.expires_after.seconds if body.expires_after else None,
        key_id=caller_of(http).id, check=_room_for(http, body.bytes),
    )  # fmt: skip
    return JSONResponse(_show_upload(row, None))


@router.post("/v1/uploads/{upload_id}/parts")
async def add_part(upload_id: str, http: HttpRequest) -> Response:
    """Add a part of at most 64 MB."""
    home, owner = home_of(http), owner_of(http)
    await _upload_call(upload_id, uploads.get, home.database, upload_id, owner=owner, open=True)
    with files.Incoming(home.folder, MAX_PART_BYTES) as incoming:
        _, filename = await read_form(http, "data", incoming.write)
        if filename is None:
            raise ApiError(400, "'data' is a required property", param="data")
        part = await _upload_call(
            upload_id, uploads.add_part, home.database, home.folder, upload_id, incoming,
            owner=owner,
        )  # fmt: skip
    shown = {key: part[key] for key in ("id", "created_at", "upload_id")}
    return JSONResponse({**shown, "object": "upload.part"})


@router.post("/v1/uploads/{upload_id}/complete")
async def complete_upload(upload_id: str, body: CompleteBody, http: HttpRequest) -> Response:
    """Join the parts, in the order given, to a file."""
    home, owner = home_of(http), owner_of(http)
    begun = await _upload_call(upload_id, uploads.get, home.database, upload_id, owner=owner)
    row = await _upload_call(
        upload_id, uploads.complete, home.database, home.folder, upload_id, body.part_ids,
        md5=body.md5, owner=owner, check=_room_for(http, begun["bytes"]),
    )  # fmt: skip
    return JSONResponse(_show_upload(row, await _file(http, row["file_id"])))


@router.post("/v1/uploads/{upload_id}/cancel")
async def cancel_upload(upload_id: str, http: HttpRequest) -> Response:
    """Give an upload up; its parts go."""
    home = home_of(http)
    row = await _upload_call(
        upload_id, uploads.cancel, home.database, home.folder, upload_id, owner=owner_of(http)
    )
    return JSONResponse(_show_upload(row, None))


async def _upload_call(upload_id: str, call: Any, *args: Any, **options: Any) -> Any:
    try:
        return await asked("Upload object", upload_id, call, *args, **options)
    except uploads.UploadError as error:
        raise ApiError(400, str(error)) from None


async def _file(http: HttpRequest, file_id: str) -> Record:
    database = home_of(http).database
    return await looked_up(
        http, "File object", file_id, files.get_file, database, file_id, owner=owner_of(http)
    )


def show_file(row: Record) -> dict[str, Any]:
    """A file as clients know it."""
    keys = ("id", "bytes", "created_at", "filename", "purpose", "status", "status_details")
    return {**{key: row[key] for key in keys}, "object": "file", "expires_at": row["expires_at"]}


def _show_upload(row: Record, file: Record | None) -> dict[str, Any]:
    keys = ("id", "bytes", "created_at", "filename", "purpose", "status", "expires_at")
    shown = {key: row[key] for key in keys}
    return {**shown, "object": "upload", "file": None if file is None else show_file(file)}
