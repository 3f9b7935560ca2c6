"""A check that was stopped goes on where --cache kept its steps, and comes to the same."""

import csv
import json

import pytest

from tunewright.checking import check
from tunewright.config import make_recipe
from tunewright.data import parts
from tunewright.data.audit import table
from tunewright.data.audit.table import ROW_BY_ROW
from tunewright.journal import silence
from tunewright.kept import Kept, keeping, name_check


def tickets(path, count=80):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for n in range(count):
            writer.writerow([f"where is parcel {n} at the moment, call {'ab'[n % 2]}", "ab"[n % 2]])
    return make_recipe({"data": {"train": str(path)}})


def look(recipe, cache):
    kept = Kept(cache, recipe, name_check(recipe))
    return check(
        recipe, silence(), embed=False, cache=cache, prepared=kept.prepare(silence()),
        keep=kept.keep,
    )  # fmt: skip


def test_a_stopped_check_goes_on_behind_the_last_step(tmp_path, monkeypatch):
    recipe, cache = tickets(tmp_path / "t.csv"), tmp_path / "cache"
    asked = []

    def watched(name, audit):
        def run(material, **options):
            asked.append(name)
            if name == "label_errors" and len(asked) < 20:
                raise KeyboardInterrupt
            return audit(material, **options)

        return run

    watching = {name: watched(name, audit) for name, audit in table.AUDITS.items()}
    monkeypatch.setattr(table, "AUDITS", watching)
    with pytest.raises(KeyboardInterrupt):
        look(recipe, cache)
    before = list(asked)
    asked += [""] * 20
    second = look(recipe, cache)
    again = asked[len(before) + 20 :]
    assert before[-1] == again[0] == "label_errors" and not set(before[:-1]) & set(again)
    monkeypatch.undo()
    plain = check(recipe, silence(), embed=False)
    assert json.dumps(second.card, default=str) == json.dumps(plain.card, default=str)


def test_other_data_is_looked_at_anew(tmp_path):
    cache = tmp_path / "cache"
    first = look(tickets(tmp_path / "t.csv"), cache)
    second = look(tickets(tmp_path / "t.csv", 60), cache)
    assert sum(map(len, _sides(first))) == 80 and sum(map(len, _sides(second))) == 60


@pytest.mark.slow
def test_large_rows_lie_in_a_folder_that_goes_away(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PARTS_FROM_BYTES", 1)
    recipe = tickets(tmp_path / "t.csv")
    with keeping(recipe, None) as kept:
        place = kept.folder
        prepared = kept.prepare(silence())
        with kept.helped() as beside:
            assert beside == ROW_BY_ROW
            checkup = check(
                recipe, silence(), embed=False, prepared=prepared, keep=kept.keep, last=beside
            )
        assert kept.beside.returncode == 0, "the rows one by one were looked at by another process"
        assert len(list(place.glob("audit-*.json"))) == len(table.AUDITS)
        assert checkup.card["rows"]["read"] == {"train": 80}
    assert not place.exists()
    assert look(recipe, tmp_path / "cache").card == checkup.card


def _sides(checkup):
    splits = checkup.prepared.splits
    return splits.train, splits.validation, splits.test
