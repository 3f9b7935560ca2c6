"""Forms with a file, read as they come: fields are small, the file goes straight to its sink."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from fastapi import Request as HttpRequest
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from tunewright.api.errors import ApiError
from tunewright.jobs.files import TooLarge

MAX_FIELD_BYTES = 64 << 10
MAX_FIELDS = 32
MAX_NAME_CHARS = 512
PIECE_BYTES = 1 << 20
DRAIN_BYTES = 2 << 20
"""What is still read after a file grew too large, so that a client just over the limit hears why
instead of a broken pipe."""


class _Form:
    """The parts of one form. sink: takes the bytes of the part named `file_field`."""

    def __init__(self, file_field: str) -> None:
        self.file_field = file_field
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.pending = bytearray()
        self._headers: dict[str, bytes] = {}
        self._name, self._value = bytearray(), bytearray()
        self._field = ""
        self._field_value = bytearray()

    def callbacks(self) -> dict[str, Callable[..., None]]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_end,
            "on_part_data": self._data,
            "on_part_end": self._part_end,
        }

    def _begin(self) -> None:
        self._headers = {}
        self._field_value = bytearray()
        if len(self.fields) >= MAX_FIELDS:
            raise ApiError(400, f"more than {MAX_FIELDS} form fields")

    def _header_end(self) -> None:
        self._headers[self._name.decode("latin-1").lower()] = bytes(self._value)
        self._name, self._value = bytearray(), bytearray()

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition", b""))
        self._field = options.get(b"name", b"").decode("utf-8", "replace")
        if self._field == self.file_field:
            if self.filename is not None:
                raise ApiError(400, f"{self.file_field}: given twice", param=self.file_field)
            name = options.get(b"filename", b"").decode("utf-8", "replace")
            self.filename = name[:MAX_NAME_CHARS].replace("\0", "")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._field == self.file_field:
            self.pending += data[start:end]
        elif len(self._field_value) + end - start > MAX_FIELD_BYTES:
            raise ApiError(400, f"{self._field}: longer than {MAX_FIELD_BYTES} bytes")
        else:
            self._field_value += data[start:end]

    def _part_end(self) -> None:
        if self._field != self.file_field:
            self.fields[self._field] = self._field_value.decode("utf-8", "replace")


class _Body:
    """The bytes of a request as they come. more: there is something left to read."""

    def __init__(self, http: HttpRequest) -> None:
        self.http, self.more = http, True

    async def read(self) -> bytes:
        """The next piece. Raises ClientDisconnect."""
        message = await self.http.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        self.more = bool(message.get("more_body", False))
        return bytes(message.get("body", b""))

    async def drain(self) -> None:
        """Read on for a little, so that the client has sent all before it is answered."""
        left = DRAIN_BYTES
        with contextlib.suppress(ClientDisconnect):
            while self.more and left > 0:
                left -= len(await self.read())


async def read_form(
    http: HttpRequest, file_field: str, sink: Callable[[bytes], None]
) -> tuple[dict[str, str], str | None]:
    """The text fields, and the name that the client gave the file (None: there was no file).

    sink(bytes) is called off the event loop, in order. Raises ApiError: 400 for what is no form,
    413 when the sink says TooLarge, 499 when the client goes away.
    """
    kind, options = parse_options_header(http.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise ApiError(400, "send multipart/form-data with a file", code="invalid_content_type")
    form, body = _Form(file_field), _Body(http)
    callbacks: Any = form.callbacks()
    try:
        parser = MultipartParser(boundary, callbacks)
        while body.more:
            parser.write(await body.read())
            if len(form.pending) >= PIECE_BYTES:
                await _pour(form, sink)
        parser.finalize()
        await _pour(form, sink)
    except TooLarge as error:
        await body.drain()
        raise ApiError(
            413, f"{file_field}: {error}", param=file_field, code="file_too_large"
        ) from None
    except MultipartParseError as error:
        raise ApiError(400, f"not a well-formed form: {error}") from None
    except ClientDisconnect:
        raise ApiError(499, "the client went away") from None
    return form.fields, form.filename


async def _pour(form: _Form, sink: Callable[[bytes], None]) -> None:
    if form.pending:
        piece, form.pending = bytes(form.pending), bytearray()
        await asyncio.to_thread(sink, piece)
