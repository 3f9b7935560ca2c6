"""Rows prepared part by part come to what they come to all at once, but for who is on which side."""

import json
import random
from dataclasses import replace

import pytest

from tunewright.config import make_recipe
from tunewright.data import parts
from tunewright.data.clean import normalise
from tunewright.data.parts import goes_in_parts, prepare_in_parts
from tunewright.data.prepare import prepare
from tunewright.errors import DataError
from tunewright.journal import silence

SIDES = ("train", "validation", "test")


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(parts, "PARTS_FROM_BYTES", 1)
    monkeypatch.setattr(parts, "PART_BYTES", 8_000)
    monkeypatch.setattr(parts, "HEAD_ROWS", 100)
    monkeypatch.setattr(parts, "CHUNK_ROWS", 64)


def rows_of(count, seed=3):
    rng = random.Random(seed)
    words = [f"word{n}" for n in range(300)]
    rows = [
        {"text": " ".join(rng.choices(words, k=8)), "label": rng.choice("abc")}
        for _ in range(count)
    ]
    for n in range(count // 10):
        rows.append(dict(rows[n]))
    for n in range(20):
        rows.append({"text": rows[n]["text"].upper() + "!", "label": "c"})
    rows += [{"text": "", "label": "a"}, {"text": "no answer here", "label": None}]
    rows.append({"text": "a number for a label", "label": 7})
    rng.shuffle(rows)
    return rows


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def compare(data, folder):
    section = make_recipe({"data": data}).data
    assert goes_in_parts(section)
    whole = prepare(section, None, silence())
    apart = prepare_in_parts(section, None, silence(), folder)
    return whole, apart


def counted(item):
    """The message but for which row is named first: of repeats whole files name the first group."""
    return item.message.partition(" (first: ")[0]


def everything(prepared):
    return [row for side in SIDES for row in getattr(prepared.splits, side)]


def test_the_same_rows_and_findings(tmp_path, small_parts):
    whole, apart = compare({"train": write(tmp_path / "t.jsonl", rows_of(900))}, tmp_path)
    assert replace(apart.layout, reasons=()) == replace(whole.layout, reasons=())
    assert apart.layout.reasons[-1] == whole.layout.reasons[-1] == "4 labels in column label"
    assert apart.num_read == whole.num_read
    assert sorted(row.place for row in everything(apart)) == sorted(
        row.place for row in everything(whole)
    )
    assert {row.id for row in everything(apart)} == {row.id for row in everything(whole)}
    told = {(item.kind, counted(item)): item for item in whole.findings}
    assert {(item.kind, counted(item)) for item in apart.findings} == set(told)
    for item in apart.findings:
        twin = told[item.kind, counted(item)]
        assert set(zip(item.places, item.rows, strict=True)) == set(
            zip(twin.places, twin.rows, strict=True)
        )
        assert {frozenset(c) for c in item.clusters} == {frozenset(c) for c in twin.clusters}
        assert dict(item.details) == dict(twin.details)


def test_no_text_on_two_sides_and_shares_are_met(tmp_path, small_parts):
    _, apart = compare({"train": write(tmp_path / "t.jsonl", rows_of(2000))}, tmp_path)
    texts = [{normalise(row.input) for row in getattr(apart.splits, side)} for side in SIDES]
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]
    sizes = [len(getattr(apart.splits, side)) for side in SIDES]
    assert abs(sizes[1] / sum(sizes) - 0.1) < 0.02 and abs(sizes[2] / sum(sizes) - 0.1) < 0.02
    assert not list(tmp_path.glob("part-*"))


def test_leaks_into_a_test_file_are_taken_out_and_counted(tmp_path, small_parts):
    rows = rows_of(600)
    test = [dict(row) for row in rows[:80] if row["text"]] + rows_of(40, seed=9)[:40]
    data = {
        "train": write(tmp_path / "t.jsonl", rows),
        "test": write(tmp_path / "held.jsonl", test),
    }
    whole, apart = compare(data, tmp_path)
    for kind in ("leak_exact", "leak_text", "split_by_row"):
        first, second = (
            [item for item in side.findings if item.kind == kind] for side in (whole, apart)
        )
        assert [(i.message, set(i.places)) for i in first] == [
            (i.message, set(i.places)) for i in second
        ], kind
    assert len(apart.splits.test) == len(whole.splits.test)


def test_references_of_one_prompt_are_merged(tmp_path, small_parts):
    rng = random.Random(1)
    rows = [
        {"prompt": f"say it like {n % 150}", "completion": f"{rng.random()} is what was said"}
        for n in range(600)
    ]
    data = {"train": write(tmp_path / "t.jsonl", rows)}
    _, apart = compare(data, tmp_path)
    inputs = [row.input for row in apart.splits.test]
    assert len(inputs) == len(set(inputs)) and len(apart.splits.test[0].references) == 4
    assert {i.kind for i in apart.findings} >= {"multi_reference"}


def test_what_is_wrong_with_all_rows_is_said_of_all(tmp_path, small_parts):
    rows = [{"text": f"row {n} of many", "label": None if n % 3 else "a"} for n in range(600)]
    section = make_recipe({"data": {"train": write(tmp_path / "t.jsonl", rows)}}).data
    with pytest.raises(DataError, match="400 of 600 rows have no label or answer"):
        prepare_in_parts(section, "classify", silence(), tmp_path)


def test_groups_and_small_files_stay_whole(tmp_path, monkeypatch):
    path = write(tmp_path / "t.jsonl", rows_of(100))
    assert not goes_in_parts(make_recipe({"data": {"train": path}}).data)
    monkeypatch.setattr(parts, "PARTS_FROM_BYTES", 1)
    assert not goes_in_parts(make_recipe({"data": {"train": path, "group": "label"}}).data)
