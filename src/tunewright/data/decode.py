"""From bytes on disk to text: encodings, gzip with an expansion limit, what first bytes reveal.

Nothing here knows about rows; see formats.py.
"""

from __future__ import annotations

import codecs
import errno
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tunewright.errors import DataError

# A text file compresses about 3 to 20 times; far beyond that it was made to fill a memory.
MAX_EXPANSION = 200
EXPANSION_ALLOWED_BYTES = 64 * 2**20
UNPACKED_VARIABLE = "TUNEWRIGHT_UNPACKED_GB"
"""Whoever owns the machine may trust files that unpack far beyond their size, up to so many GB."""
MAX_LINE_CHARS = 256 * 2**20
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
    except OSError as error:
        raise explain_missing(path, error) from None


def explain_missing(path: Path, error: OSError | None = None) -> DataError:
    """Why a file cannot be opened: it is not there, a link leads nowhere, or it may not be read."""
    if error is None:
        try:
            path.stat()
        except OSError as found:
            error = found
        except ValueError:
            return DataError(f"{str(path)!r}: no such file or folder; check the path")
    code = error.errno if error is not None else None
    if code == errno.ELOOP:
        return DataError(f"{path}: a symbolic link that leads back to itself; point it at the data")
    if path.is_symlink() and code == errno.ENOENT:
        return DataError(
            f"{path}: a symbolic link to {os.readlink(path)}, which is not there; mend the link"
        )
    if code is None and path.exists():
        return DataError(f"{path}: neither a file nor a folder; copy what it gives into a file")
    if code in (None, errno.ENOENT, errno.ENOTDIR):
        return DataError(f"{path}: no such file or folder; check the path")
    if code in (errno.EACCES, errno.EPERM):
        return DataError(f"{path}: may not be read by you; ask for the right to, or copy it")
    return DataError(f"{path}: cannot be read ({error and error.strerror}); check the file")


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
            yield io.BufferedReader(_Limited(unpacked, raw, path), buffer_size=1 << 16)


class _Limited(io.RawIOBase):
    """Passes bytes on and stops as soon as a packed file grows out of proportion.

    What was read of the packed file so far is compared, so that a bomb of any size is refused
    after the first 64 MiB of it.
    """

    def __init__(self, source: gzip.GzipFile, packed: IO[bytes], path: Path) -> None:
        self.source = source
        self.packed = packed
        self.path = path
        self.allowed = max(EXPANSION_ALLOWED_BYTES, allowed_bytes())
        self.seen = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.source.read(len(buffer))
        self.seen += len(data)
        if self.seen > self.allowed and self.seen > MAX_EXPANSION * self.packed.tell():
            raise DataError(
                f"{self.path}: unpacks to more than {MAX_EXPANSION} times its size "
                f"({self.packed.tell():,} bytes of it to {self.seen:,}); {trust_remedy()}"
            )
        buffer[: len(data)] = data
        return len(data)


def allowed_bytes() -> int:
    """Bytes that a file may unpack to whatever its size, as the machine's owner set them; or 0."""
    try:
        return int(float(os.environ.get(UNPACKED_VARIABLE, "0")) * 1e9)
    except ValueError:
        return 0


def trust_remedy() -> str:
    """What to do about a file that was taken for a bomb and is none."""
    return f"if you trust it, unpack it yourself, or set {UNPACKED_VARIABLE} to the GB it may take"


def number_lines(file: IO[str], shown: str) -> Iterator[tuple[int, str]]:
    """(line number from 1, line) of an open text file. Raises DataError for one without end."""
    number = 0
    while line := file.readline(MAX_LINE_CHARS):
        number += 1
        if len(line) == MAX_LINE_CHARS and not line.endswith("\n"):
            raise DataError(
                f"{shown}:{number}: a line of more than {MAX_LINE_CHARS:,} characters; are line "
                "ends missing? write one row a line"
            )
        yield number, line


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
                place = f"{path}:{line}: byte 0x{raw[error.start]:02X} at offset"
                if _is_binary(raw[:4096]):
                    return DataError(f"{place} {offset + error.start}: {_binary_remedy(path)}")
                return DataError(
                    f"{place} {offset + error.start} is not UTF-8; save the file as UTF-8, e.g. "
                    f"`{'gunzip -c FILE | ' * _is_packed(path)}iconv -f WINDOWS-1252 -t UTF-8`"
                )
            offset += len(raw)
    return DataError(f"{path}: not UTF-8; save the file as UTF-8")


_CONTROLS = bytes(code for code in range(32) if code not in b"\t\n\r\f\x1b") + b"\x7f"
_MOST_CONTROLS = 0.02
"""Share of control codes in text, at most; of random bytes it is .11."""


def _is_binary(head: bytes) -> bool:
    kept = len(head.translate(None, _CONTROLS))
    return len(head) - kept > max(1, _MOST_CONTROLS * len(head))


def _is_packed(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _binary_remedy(path: Path) -> str:
    if path.suffix.lower() in (".gz", ".gzip"):
        if _is_packed(path):
            return "unpacks to binary data, not to text; pack csv, tsv, jsonl, json or text"
        return "no gzip data, although its name says so; fetch or pack it again"
    return "binary, not text; give csv, tsv, jsonl, json, parquet, Arrow or text"


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
        at = head.index(0)
        raise DataError(f"{path}: byte 0x00 at offset {at}: {_binary_remedy(path)}")
