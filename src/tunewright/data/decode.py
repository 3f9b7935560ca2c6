"""From bytes on disk to text: encodings, gzip with an expansion limit, what first bytes reveal.

Nothing here knows about rows; see formats.py.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tunewright.errors import DataError

# A text file compresses about 3 to 20 times; far beyond that it was made to fill a memory.
MAX_EXPANSION = 200
EXPANSION_ALLOWED_BYTES = 64 * 2**20
SAMPLE_BYTES = 64 * 1024
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# What a person may hand over by mistake, by first bytes.
FOREIGN_FILES = (
    (b"PK\x03\x04", "a zip archive or an Office file", "unpack it, or save the sheet as csv"),
    (b"%PDF", "a PDF", "extract its text first"),
    (b"\x89PNG", "an image", "give a file of text rows"),
    (b"\xff\xd8\xff", "an image", "give a file of text rows"),
    (b"SQLite format 3", "a database", "export the table as csv"),
    (b"\xd0\xcf\x11\xe0", "an old Office file", "save the sheet as csv"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it"),
    (b"\x28\xb5\x2f\xfd", "zstandard data", "unpack it, or use gzip"),
    (b"BZh", "bzip2 data", "unpack it, or use gzip"),
)


@contextmanager
def naming_bad_bytes(path: Path) -> Iterator[None]:
    """Turn decoding, gzip and disk errors inside the block into DataError with their place."""
    try:
        yield
    except UnicodeDecodeError:
        raise find_bad_byte(path) from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip data ({error}); fetch or pack it again") from None
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the file") from None


@contextmanager
def open_text(path: Path, *, newline: str | None = None) -> Iterator[IO[str]]:
    """An open UTF-8 text file, unpacked where it is gzip; a byte order mark is skipped.

    Raises DataError for a missing, binary, wrongly encoded or damaged file, inside the block too.
    """
    with naming_bad_bytes(path), open_bytes(path) as file:
        _refuse_binary(path, file.peek(512)[:512] if hasattr(file, "peek") else b"")
        with io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline) as text:
            yield text


@contextmanager
def open_bytes(path: Path) -> Iterator[io.BufferedReader]:
    """The file's bytes, unpacked where it is gzip. Raises DataError past the expansion limit."""
    with open(path, "rb") as raw:
        if raw.read(2) != b"\x1f\x8b":
            raw.seek(0)
            yield raw
            return
        raw.seek(0)
        with gzip.GzipFile(fileobj=raw) as unpacked:
            yield io.BufferedReader(_Limited(unpacked, path), buffer_size=1 << 16)


class _Limited(io.RawIOBase):
    """Passes bytes on and stops when a packed file grows out of proportion."""

    def __init__(self, source: gzip.GzipFile, path: Path) -> None:
        self.source = source
        self.path = path
        self.limit = max(EXPANSION_ALLOWED_BYTES, MAX_EXPANSION * path.stat().st_size)
        self.seen = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.source.read(len(buffer))
        self.seen += len(data)
        if self.seen > self.limit:
            raise DataError(
                f"{self.path}: unpacks to more than {self.limit:,} bytes, over {MAX_EXPANSION} "
                "times its size; unpack it yourself if you trust it"
            )
        buffer[: len(data)] = data
        return len(data)


def read_sample(path: Path, num_bytes: int = SAMPLE_BYTES) -> bytes:
    """The first bytes of a file, unpacked where it is gzip. Raises DataError."""
    with naming_bad_bytes(path), open_bytes(path) as file:
        return file.read(num_bytes)


def find_bad_byte(path: Path) -> DataError:
    """The error that names the first byte which is not UTF-8: its line, offset and value."""
    offset = 0
    with open_bytes(path) as file:
        for line, raw in enumerate(file, 1):
            try:
                raw.decode("utf-8")
            except UnicodeDecodeError as error:
                bad = raw[error.start]
                return DataError(
                    f"{path}:{line}: byte 0x{bad:02X} at offset {offset + error.start} is not "
                    f"UTF-8; save the file as UTF-8, e.g. `iconv -f WINDOWS-1252 -t UTF-8`"
                )
            offset += len(raw)
    return DataError(f"{path}: not UTF-8; save the file as UTF-8")


def _refuse_binary(path: Path, head: bytes) -> None:
    if head.startswith(UTF16_MARKS):
        raise DataError(
            f"{path}:1: byte 0x{head[0]:02X} at offset 0 begins UTF-16 text, not UTF-8; save the "
            "file as UTF-8, e.g. `iconv -f UTF-16 -t UTF-8`"
        )
    for mark, what, remedy in FOREIGN_FILES:
        if head.startswith(mark):
            raise DataError(f"{path}: is {what}; {remedy}")
    if b"\0" in head:
        raise DataError(
            f"{path}: byte 0x00 at offset {head.index(0)}: binary, not text; "
            "give csv, tsv, jsonl, json, parquet, Arrow or text"
        )
