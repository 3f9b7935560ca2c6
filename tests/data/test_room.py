"""Rows that would not fit are refused while they are read, and a part can be asked for."""

import json
import re

import pytest

from tunewright.config import make_recipe
from tunewright.data import prepare as preparing
from tunewright.data import room
from tunewright.data.prepare import prepare
from tunewright.data.room import sample_rows
from tunewright.errors import DataError
from tunewright.journal import silence


def source(path, count):
    lines = [
        json.dumps({"text": f"parcel {n} is late", "label": "ab"[n % 2]}) for n in range(count)
    ]
    path.write_text("\n".join(lines))
    return path


def test_rows_that_do_not_fit_are_refused_early(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "LOOKED_EVERY_ROWS", 100)
    monkeypatch.setattr(room, "free_bytes", lambda: 10_000_000)
    path = source(tmp_path / "big.jsonl", 20_000)
    seen = []
    with pytest.raises(DataError, match="would take about") as caught:
        for placed, _ in room.watch_room(str(path), _rows(path), path.stat().st_size):
            seen.append(placed)
    assert len(seen) < 200, "told by the first rows, not by the last"
    asked = int(re.search(r"data\.max_rows=(\d+)", str(caught.value)).group(1))
    assert 1000 < asked < 4000
    data = {"train": str(path), "max_rows": asked}
    monkeypatch.setattr(preparing, "SAMPLED_FROM_BYTES", 1000)
    prepared = prepare(make_recipe({"data": data}).data, None, silence())
    assert sum(len(side) for side in (prepared.splits.train, prepared.splits.test)) <= asked
    assert prepared.num_read == {"train": 20_000}
    assert any(item.kind == "max_rows" for item in prepared.findings)


def test_enough_room_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "LOOKED_EVERY_ROWS", 10)
    path = source(tmp_path / "small.jsonl", 200)
    assert len(list(room.watch_room(str(path), _rows(path), path.stat().st_size))) == 200


def test_the_sample_hangs_on_content_alone():
    rows = [(f"a:{n}", {"text": f"row {n % 700}"}) for n in range(1000)]
    chosen, count = sample_rows(iter(rows), 100, seed=1)
    assert count == 1000 and len(chosen) == 100
    assert [int(place[2:]) for place, _ in chosen] == sorted(int(place[2:]) for place, _ in chosen)
    other, _ = sample_rows(iter(reversed(rows)), 100, seed=1)
    texts = {row["text"] for _, row in chosen}
    assert len(texts ^ {row["text"] for _, row in other}) <= 1
    assert texts != {row["text"] for _, row in sample_rows(iter(rows), 100, seed=2)[0]}


def test_memory_of_the_container_counts(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("1000000000\n")
    (tmp_path / "memory.current").write_text("999000000\n")
    monkeypatch.setattr(room, "_GROUP_FILES", tmp_path)
    assert room.free_bytes() == 1_000_000


def _rows(path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        yield f"{path.name}:{number}", json.loads(line)
