"""Whether rows fit in the memory that is free, told while they are read and not by being killed.

`prepare` and the audits hold every row. What they take was measured by bench/check_scale.py.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import psutil

from tunewright.data.layout import PlacedRow
from tunewright.errors import DataError

BYTES_A_ROW = 2_400
BYTES_A_CHARACTER = 3.0
"""Of memory, for `check` from reading to the last audit; the share of a row, and of its text."""
LEFT_FREE = 0.1
LOOKED_EVERY_ROWS = 20_000
_GROUP_FILES = Path("/sys/fs/cgroup")


def free_bytes() -> int:
    """Memory that this process may still take: of the machine, or of the container it runs in."""
    free = int(psutil.virtual_memory().available)
    try:
        most = (_GROUP_FILES / "memory.max").read_text().strip()
        used = int((_GROUP_FILES / "memory.current").read_text())
    except (OSError, ValueError):
        return free
    return min(free, int(most) - used) if most.isdigit() else free


def refuse_too_many(
    source: str, read_rows: int, read_chars: int, total_bytes: int, taken_bytes: int
) -> None:
    """Raise DataError where rows like those read so far will not fit.

    total_bytes: of the source; packed ones hold more, and are judged by what was read. taken_bytes:
    of memory since reading began.
    """
    share = max(1.0, total_bytes / max(1, read_chars))
    rows, chars = read_rows * share, read_chars * share
    needed = rows * BYTES_A_ROW + chars * BYTES_A_CHARACTER
    room = (1 - LEFT_FREE) * (free_bytes() + taken_bytes)
    if needed <= room:
        return
    fitting = _round_down(rows * 0.8 * room / needed)
    raise DataError(
        f"{source}: about {rows:,.0f} rows, which would take about {needed / 1e9:,.1f} GB of "
        f"memory where {room / 1e9:.1f} GB are free; look at a part of them with --set "
        f"data.max_rows={fitting} (data.max_rows in a recipe), chosen by content while reading, "
        "or go to a larger machine"
    )


def watch_room(
    source: str, rows: Iterable[PlacedRow], total_bytes: int, *, held: bool = True
) -> Iterator[tuple[PlacedRow, int]]:
    """(row, characters read so far) for each row.

    held: by whoever asks, all of them. Raises DataError where they will not fit then.
    """
    process = psutil.Process()
    before = process.memory_info().rss
    chars = 0
    for number, placed in enumerate(rows, 1):
        chars += count_characters(placed[1])
        if held and number % LOOKED_EVERY_ROWS == 0:
            taken = max(0, process.memory_info().rss - before)
            refuse_too_many(source, number, chars, total_bytes, taken)
        yield placed, chars


def count_characters(row: Any) -> int:
    """About how many characters a row takes in its file."""
    return sum(len(v) + 1 if isinstance(v, str) else 8 for v in row.values())


def sample_rows(rows: Iterable[PlacedRow], most: int, seed: int) -> tuple[list[PlacedRow], int]:
    """(at most `most` rows in their order, how many there were): those whose hash comes first.

    No more than `most` rows are held at a time, and equal rows go or stay together but for the
    last. The order of the rows plays no part in which are chosen.
    """
    kept: list[tuple[int, int, PlacedRow]] = []
    number = 0
    for number, placed in enumerate(rows, 1):
        text = json.dumps(placed[1], sort_keys=True, default=str)
        digest = blake2b(f"{seed}\0{text}".encode("utf-8", "surrogatepass"), digest_size=8)
        rank = -int.from_bytes(digest.digest(), "big")
        if len(kept) < most:
            heapq.heappush(kept, (rank, -number, placed))
        elif rank > kept[0][0]:
            heapq.heapreplace(kept, (rank, -number, placed))
    return [placed for _, _, placed in sorted(kept, key=lambda item: -item[1])], number


def _round_down(number: float) -> int:
    """A number of rows with one digit that is not nought."""
    whole = max(1, int(number))
    power: int = 10 ** (len(str(whole)) - 1)
    return whole // power * power
