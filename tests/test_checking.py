"""The plan behind `check`: bad input ends in one line, long rows are told, unfit data refused."""

import gzip
import random
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tunewright import checking
from tunewright.checking import audit_before_training, check
from tunewright.config import make_recipe
from tunewright.data.prepare import prepare
from tunewright.errors import DataError, Refusal
from tunewright.journal import silence
from tunewright.records import Finding


def recipe(path):
    return make_recipe({"data": {"train": str(path)}})


def tickets(path, extra=()):
    lines = [f"where is parcel {n} at the moment,{'ab'[n % 2]}" for n in range(60)]
    path.write_text("\n".join(["text,label", *lines, *extra]))
    return path


def test_a_parquet_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tunewright.data.arrow.EXPANSION_ALLOWED_BYTES", 2**20)
    path = tmp_path / "bomb.parquet"
    table = pa.table({"text": pa.array(["x" * 50_000] * 4000), "label": pa.array(["a"] * 4000)})
    pq.write_table(table, path, compression="zstd")
    with pytest.raises(DataError, match="unpacks to more than"):
        check(recipe(path), silence())


def test_a_gzip_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tunewright.data.decode.EXPANSION_ALLOWED_BYTES", 2**20)
    path = tmp_path / "bomb.csv.gz"
    path.write_bytes(gzip.compress(b"text,label\n" + b"a" * 20_000_000 + b",b\n"))
    with pytest.raises(DataError, match="unpacks to more than"):
        check(recipe(path), silence())


@pytest.mark.parametrize("content", [b"\x00\x01\x02" * 1000, b"text,label\n\xff\xfe\xfd,a\n", b""])
def test_garbage_is_one_line(tmp_path, content):
    path = tmp_path / "g.csv"
    path.write_bytes(content)
    with pytest.raises(DataError):
        check(recipe(path), silence())


def test_links_that_go_round(tmp_path):
    folder = tmp_path / "loop"
    folder.mkdir()
    tickets(folder / "a.csv")
    (folder / "again").symlink_to(folder)
    assert check(recipe(folder), silence(), only=(), learn=False).card["rows"]["read"] == {
        "train": 60
    }
    (tmp_path / "self.csv").symlink_to(tmp_path / "self.csv")
    with pytest.raises(DataError):
        check(recipe(tmp_path / "self.csv"), silence())


def test_labels_of_mixed_type(tmp_path):
    path = tmp_path / "m.jsonl"
    labels = ("1", "1.0", "true", "null", '"two"', '""')
    path.write_text(
        "\n".join(f'{{"text": "row {n} says it", "label": {labels[n % 6]}}}' for n in range(60))
    )
    checkup = check(recipe(path), silence(), only=(), learn=False)
    card = checkup.card
    assert card["labels"] == ["1", "two"] and card["rows"]["dropped"] == {"missing_output": 20}
    (told,) = [item for item in checkup.findings if item.kind == "label_types"]
    assert told.severity == "warn" and told.details["types"] == {
        "number": 20, "flag": 10, "text": 10,
    }  # fmt: skip
    assert "10 texts (first: m.jsonl:5, 'two')" in told.message
    assert told.places[:3] == ("m.jsonl:3", "m.jsonl:5", "m.jsonl:9") and len(told.rows) == 20


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ('["a", "b"]', "m.jsonl:8: a list, ['a', 'b'], in column label where other rows hold one"),
        ('{"name": "a"}', "m.jsonl:8: an object, {'name': 'a'}, in column label where a label"),
    ],
)
@pytest.mark.parametrize("held", [False, True])
def test_a_structure_where_a_label_belongs_is_refused(tmp_path, cell, said, held):
    good = [f'{{"text": "row {n} says it", "label": "{"ab"[n % 2]}"}}' for n in range(40)]
    bad = [*good[:7], f'{{"text": "row 7 says it", "label": {cell}}}', *good[8:]]
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(bad))
    data = {"train": str(path)}
    if held:
        (tmp_path / "good.jsonl").write_text("\n".join(good))
        data = {"train": str(tmp_path / "good.jsonl"), "test": str(path)}
    with pytest.raises(DataError, match=re.escape(said)):
        prepare(make_recipe({"data": data}).data, None, silence())


def test_lists_of_labels_hold_names_alone(tmp_path):
    path = tmp_path / "m.jsonl"
    lines = [f'{{"text": "row {n} says it", "labels": ["{"ab"[n % 2]}"]}}' for n in range(40)]
    path.write_text("\n".join([*lines, '{"text": "odd", "labels": ["a", ["b"]]}']))
    columns = {"input": "text", "output": "labels"}
    wish = make_recipe({"data": {"train": str(path), "columns": columns}})
    with pytest.raises(DataError, match=r"m.jsonl:41: a list, \['b'\], among the labels"):
        prepare(wish.data, "classify", silence())


def test_a_very_long_row_is_told_and_read_in_part(tmp_path, monkeypatch):
    monkeypatch.setattr(checking, "MAX_AUDITED_CHARS", 1000)
    path = tickets(tmp_path / "t.csv", [f"{'word ' * 400} jo@example.org,a"])
    checkup = check(recipe(path), silence(), only=("personal_data",), learn=False)
    kinds = {item.kind: item for item in checkup.findings}
    assert kinds["very_long_text"].places == ("t.csv:62",)
    assert "personal_data_email" not in kinds


def test_unfit_data_is_not_trained_on(tmp_path, monkeypatch):
    plan = recipe(tickets(tmp_path / "t.csv"))
    prepared = prepare(plan.data, None, silence())

    def unfit(prepared, recipe, journal, only):
        return [Finding("giveaway", "error", "column x gives the label away")]

    monkeypatch.setattr(checking, "audit", unfit)
    with pytest.raises(Refusal, match="gives the label away"):
        audit_before_training(prepared, plan, silence())


def test_a_broken_audit_costs_no_training(tmp_path, monkeypatch):
    plan = recipe(tickets(tmp_path / "t.csv"))
    prepared = prepare(plan.data, None, silence())

    def broken(*arguments, **options):
        raise RuntimeError("no")

    monkeypatch.setattr(checking, "run_audits", broken)
    journal = silence()
    assert audit_before_training(prepared, plan, journal) == prepared
    assert "was not checked" in journal.warnings[0]


def label_errors(scores):
    numbers = range(len(scores))
    return Finding(
        "label_error", "warn", "m", tuple(f"i{n}" for n in numbers), tuple(f"f:{n}" for n in numbers),
        scores=tuple(scores), suggestions=tuple("b" for _ in numbers),
    )  # fmt: skip


def test_label_errors_stand_in_two_tiers_unless_most_are_plain():
    sure, rest = checking.tier_label_errors(label_errors([6.0, 5.1, 2.0, 1.0, 0.5]))
    assert (sure.kind, sure.severity, sure.rows) == ("label_error", "warn", ("i0", "i1"))
    assert (rest.kind, rest.severity, rest.places) == ("label_doubt", "info", ("f:2", "f:3", "f:4"))
    flipped = label_errors([6.0, 5.0, 4.5, 4.1, 1.0])
    assert checking.tier_label_errors(flipped) == [flipped]
    other = Finding("mojibake", "warn", "m", ("i",), ("f:1",))
    assert checking.tier_label_errors(other) == [other]


def test_near_leaks_are_told_with_the_score_with_and_without_them(tmp_path):
    rng = random.Random(2)
    words = [f"word{n}" for n in range(200)]
    texts = [" ".join(rng.choices(words, k=10)) for _ in range(300)]
    labels = [rng.choice("ab") for _ in texts]
    train = tmp_path / "train.csv"
    train.write_text("\n".join(["text,label", *map(",".join, zip(texts, labels, strict=True))]))
    held = [f"hello there {text}" for text in texts[:20]]
    held += [" ".join(rng.choices(words, k=10)) for _ in range(40)]
    test = tmp_path / "test.csv"
    lines = [f"{text},{labels[n] if n < 20 else rng.choice('ab')}" for n, text in enumerate(held)]
    test.write_text("\n".join(["text,label", *lines]))
    wish = make_recipe({"data": {"train": str(train), "test": str(test)}})
    checkup = check(wish, silence(), only=["near_leaks"], embed=False)
    (told,) = [
        item
        for item in checkup.findings
        if item.kind == "near_leak" and item.details["split"] == "test"
    ]
    found = set(told.counterparts)
    assert len(found) > 15 and found <= {f"test.csv:{n + 2}" for n in range(20)}
    scores = told.details["scores"]["nearest_neighbour"]
    assert scores["num_suspects"] == len(found)
    assert scores["all"] > scores["without"] + 0.05 and scores["suspects"] > 0.9
    assert "with them" in told.message and "without" in told.message
