"""Things that were computed once, kept in the user's cache folder by what they were computed from.

An entry is a folder named by a digest. It is written aside as NAME.partial, where a computation
that was killed finds what it had done, and renamed when whole. Least recently used entries go when
the cache outgrows its limit. Nothing here belongs to a run: it may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FOLDER_VARIABLE = "TUNEWRIGHT_CACHE"
LIMIT_VARIABLE = "TUNEWRIGHT_CACHE_GB"
DEFAULT_LIMIT_GB = 10.0
PARTIAL_KEPT_S = 7 * 24 * 3600
_MARK = "entry.json"


def cache_folder() -> Path:
    """$TUNEWRIGHT_CACHE, or the place that the platform has for such things."""
    given = os.environ.get(FOLDER_VARIABLE)
    if given:
        return Path(given)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "tunewright"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "tunewright" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tunewright"


def limit_bytes() -> int:
    """Most bytes that the cache keeps: $TUNEWRIGHT_CACHE_GB, or 10 GB; 0 switches it off."""
    try:
        return int(float(os.environ.get(LIMIT_VARIABLE, DEFAULT_LIMIT_GB)) * 1e9)
    except ValueError:
        return int(DEFAULT_LIMIT_GB * 1e9)


def digest(*parts: Any) -> str:
    """32 hex digits of a SHA-256 over JSON values."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


def digest_files(paths: Iterable[Path]) -> str:
    """32 hex digits of a SHA-256 over the content of files, in order."""
    whole = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:32]


def digest_source(folder: Path) -> str:
    """Stands for the Python files below a folder: another version of a program, another entry."""
    files = sorted(folder.rglob("*.py"))
    return digest([(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files])


class Entry:
    """A place in the cache. Fill `partial`, then `finish`; what is whole lies in `path`."""

    def __init__(self, kind: str, key: str) -> None:
        self.path = cache_folder() / kind / key
        self.partial = self.path.with_name(f"{key}.partial")

    def is_whole(self) -> bool:
        """True where the entry was finished; marks it as used now."""
        mark = self.path / _MARK
        try:
            os.utime(mark)
        except OSError:
            return False
        return True

    def begin(self) -> Path:
        """The folder to fill; what an earlier attempt left is still there."""
        self.partial.mkdir(parents=True, exist_ok=True)
        return self.partial

    def finish(self) -> Path:
        """Make the entry whole, and let the oldest ones go where there are too many."""
        (self.partial / _MARK).write_text(json.dumps({"written": time.time()}), encoding="utf-8")
        try:
            self.partial.rename(self.path)
        except OSError:
            if not self.is_whole():  # somebody else was as fast
                raise
            shutil.rmtree(self.partial, ignore_errors=True)
        prune(keep=self.path)
        return self.path

    def drop(self) -> None:
        """Delete the entry, whole or not."""
        for path in (self.partial, self.path):
            shutil.rmtree(path, ignore_errors=True)


def prune(keep: Path | None = None) -> list[Path]:
    """Delete least recently used entries until the rest fits the limit; returns what went.

    Files that a process has mapped stay readable to it until it ends.
    """
    entries, gone = [], []
    for path in cache_folder().glob("*/*"):
        mark = path / _MARK
        if mark.exists():
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            entries.append((mark.stat().st_mtime, size, path))
        elif path.suffix == ".partial" and time.time() - path.stat().st_mtime > PARTIAL_KEPT_S:
            shutil.rmtree(path, ignore_errors=True)
            gone.append(path)
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= limit_bytes():
            break
        if path != keep:
            shutil.rmtree(path, ignore_errors=True)
            gone.append(path)
            total -= size
    return gone
