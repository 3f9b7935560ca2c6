"""Traffic kept while serving: requests, answers, confidence, latency, release, and later feedback.

An answer never waits for it: a row goes into a bounded queue, and where that is full it is dropped
and counted. A thread of its own redacts personal data, writes JSON lines that `watch` reads, and
starts a new file each day; files older than the retention are deleted. Where the disk is full, rows
wait for space (as many as the queue holds), and no half line is left behind.
"""

from __future__ import annotations

import hashlib
import json
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunewright.data.audit.redact import Memory, redact
from tunewright.records import Output, Request
from tunewright.store import to_plain

DAY_S = 86_400.0
QUEUE_ROWS = 10_000
BATCH_ROWS = 500
PATIENCE_S = 0.2
"""How long the writer waits for more rows before it writes what it has."""
BEGIN = "traffic-"
_STOP = object()


@dataclass(frozen=True, slots=True)
class CaptureSettings:
    """share: of requests that are kept, told by a hash of the id. redacts: personal data is
    replaced before it is stored. retention_days: None keeps all.
    """

    share: float = 1.0
    redacts: bool = True
    retention_days: float | None = 90.0
    queue_rows: int = QUEUE_ROWS


class Capture:
    """Keeps traffic in a folder. `put` and `feedback` return at once and never raise."""

    def __init__(
        self,
        folder: Path,
        settings: CaptureSettings | None = None,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.folder, self.settings = folder, settings or CaptureSettings()
        self.kept = self.dropped = self.failed = 0
        self._now = now
        self._queue: queue.Queue[Any] = queue.Queue(self.settings.queue_rows)
        self._swept_s = 0.0
        self._waiting: list[bytes] = []
        folder.mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._thread.start()

    def put(self, request: Request) -> bool:
        """Keep a request, if it is in the sample and the queue has room; whether it will be."""
        if self.settings.share < 1 and _fraction(request.id) >= self.settings.share:
            return False
        return self._offer(request)

    def feedback(
        self,
        request_id: str,
        *,
        label: Output = None,
        rating: float | None = None,
        by: str | None = None,
    ) -> bool:
        """Keep what was heard of a request; whether it will be."""
        return self._offer({
            "id": request_id, "label": label, "rating": rating, "label_by": by,
            "heard_s": self._now(),
        })  # fmt: skip

    def close(self, patience_s: float = 10.0) -> None:
        """Write what waits, and end the thread."""
        self._queue.put(_STOP)
        self._thread.join(patience_s)

    def _offer(self, row: Any) -> bool:
        try:
            self._queue.put_nowait(row)
        except queue.Full:
            self.dropped += 1
            return False
        return True

    def _run(self) -> None:
        going = True
        while going:
            rows, going = self._gather()
            self._waiting += self._lines(rows)
            if self._waiting:
                self._write()
            self._sweep()
        self.failed += len(self._waiting)

    def _lines(self, rows: list[Any]) -> list[bytes]:
        lines = []
        for row in rows:
            try:
                lines.append((json.dumps(self._line(row), ensure_ascii=False) + "\n").encode())
            except Exception:  # one odd row must not end the keeping of others
                self.failed += 1
        return lines

    def _write(self) -> None:
        """Write what waits; what the disk does not take waits on, the newest `queue_rows` of it."""
        try:
            _append_whole(self._path(), b"".join(self._waiting))
        except OSError:  # must not end serving; what is lost in the end is counted
            lost = max(0, len(self._waiting) - self.settings.queue_rows)
            self.failed += lost
            del self._waiting[:lost]
            return
        self.kept += len(self._waiting)
        self._waiting.clear()

    def _gather(self) -> tuple[list[Any], bool]:
        """(rows that wait, at most BATCH_ROWS; False once the end was asked for)."""
        rows: list[Any] = []
        until = None
        while len(rows) < BATCH_ROWS:
            try:
                wait = PATIENCE_S if until is None else max(0.0, until - time.monotonic())
                row = self._queue.get(timeout=wait)
            except queue.Empty:
                break
            if row is _STOP:
                return rows, False
            rows.append(row)
            until = until or time.monotonic() + PATIENCE_S
        return rows, True

    def _line(self, row: Any) -> dict[str, Any]:
        memory = Memory()
        if isinstance(row, Request):
            if self.settings.redacts:
                answer = row.answer
                row = replace(
                    row,
                    input=redact(row.input, memory),
                    answer=redact(answer, memory) if isinstance(answer, str) else answer,
                )
            plain = to_plain(row)
        else:
            plain = to_plain(row)
            if self.settings.redacts and isinstance(plain["label"], str):
                plain["label"] = redact(plain["label"], memory)
        return {key: value for key, value in plain.items() if value is not None}

    def _path(self) -> Path:
        day = datetime.fromtimestamp(self._now(), UTC).strftime("%Y-%m-%d")
        return self.folder / f"{BEGIN}{day}.jsonl"

    def _sweep(self) -> None:
        """Once an hour, delete files of days that the retention no longer covers."""
        days, now = self.settings.retention_days, self._now()
        if days is None or now - self._swept_s < 3600:
            return
        self._swept_s = now
        for path in self.folder.glob(f"{BEGIN}*.jsonl"):
            try:
                day = datetime.strptime(path.stem.removeprefix(BEGIN), "%Y-%m-%d")
            except ValueError:
                continue
            if day.replace(tzinfo=UTC).timestamp() + (days + 1) * DAY_S < now:
                path.unlink(missing_ok=True)


def _append_whole(path: Path, data: bytes) -> None:
    """Append all of it or nothing. Raises OSError, the file being as it was."""
    with open(path, "ab", buffering=0) as file:
        before = file.tell()
        try:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
        except OSError:
            file.truncate(before)
            raise


def client_name(key: str | None) -> str | None:
    """A client's API key or address as a short hash: tells clients apart, names none."""
    return None if not key else hashlib.sha256(key.encode()).hexdigest()[:12]


def _fraction(name: str) -> float:
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """All lines kept in a folder, oldest day first."""
    rows = []
    for path in sorted(folder.glob(f"{BEGIN}*.jsonl")):
        for line in path.read_text(encoding="utf-8").split("\n"):
            if line:
                rows.append(json.loads(line))
    return rows
