"""Clean copies: what leaves, why, in the source's own format, and exactly back again."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.cleaning import Decision, choose_rows, undo, write_clean
from tunewright.config import make_recipe
from tunewright.data.columns import find_layout
from tunewright.data.edit import files_to_edit, put_back, rewrite
from tunewright.data.edit_records import Change
from tunewright.data.formats import read_rows
from tunewright.errors import UserError
from tunewright.journal import silence
from tunewright.records import Finding

ROWS = [
    {"text": "first, with a comma", "label": "a"},
    {"text": 'second "quoted"\nover two lines', "label": "b"},
    {"text": "to jo@example.org, please", "label": "a"},
    {"text": "fourth été", "label": "b"},
    {"text": "first, with a comma", "label": "a"},
]


def write(path, rows=ROWS):
    if path.name.endswith(".csv"):
        text = "text,label\r\n" + "".join(
            f'"{r["text"].replace(chr(34), chr(34) * 2)}",{r["label"]}\r\n' for r in rows
        )
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    elif path.name.endswith(".tsv"):
        path.write_text(
            "text\tlabel\n"
            + "".join(f"{r['text'].split(chr(10))[0]}\t{r['label']}\n\n" for r in rows)
        )
    elif path.name.endswith(".jsonl"):
        path.write_text("\n".join(json.dumps(r) for r in rows))  # no line end at the end
    elif path.name.endswith(".jsonl.gz"):
        path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in rows).encode()))
    elif path.suffix == ".json":
        path.write_text(json.dumps({"data": rows}, indent=2) + "\n")
    elif path.suffix == ".parquet":
        table = pa.table({
            "text": [r["text"] for r in rows], "label": [r["label"] for r in rows],
            "when": pa.array([1, 2, 3, 4, 5], pa.timestamp("us")),
        })  # fmt: skip
        pq.write_table(table, path, row_group_size=2)
    elif path.suffix == ".arrow":
        table = pa.table({"text": [r["text"] for r in rows], "label": [r["label"] for r in rows]})
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as out:
            out.write_table(table, max_chunksize=2)
    return path


def plain(source):
    return [(row["text"], row["label"]) for _, row in read_rows(str(source))]


def clean(source, target, findings=(), **options):
    recipe = make_recipe({"data": {"train": str(source)}, "task": "classify"})
    layout = find_layout(list(read_rows(str(source))), recipe.data, "classify")
    return write_clean(recipe, layout, findings, target, silence(), **options)


def places(source):
    return [place for place, _ in read_rows(str(source))]


def repeat(source):
    place = places(source)[4]
    return [
        Finding(
            "duplicate_exact", "info", "1 row repeats an earlier row (first: x)", ("id5",), (place,)
        )
    ]


@pytest.mark.parametrize(
    "name", ["t.csv", "t.tsv", "t.jsonl", "t.jsonl.gz", "t.json", "t.parquet", "t.arrow"]
)
def test_out_and_back_in_every_format(tmp_path, name):
    source = write(tmp_path / name)
    before = plain(source)
    target = tmp_path / "clean" / name
    decisions = [Decision(places(source)[0], "id1", "label_error", "relabel", "b")]
    written = clean(source, target, repeat(source), decisions=decisions, redact_kinds=("email",))
    assert (written.kept, written.changed, written.dropped) == (2, 2, 1)
    expected = [(before[0][0], "b"), before[1], ("to <EMAIL_1>, please", "a"), before[3]]
    assert plain(target) == expected
    entries = [json.loads(line) for line in written.dropped_file.read_text().splitlines()]
    assert [entry["action"] for entry in entries] == ["relabel", "redact", "drop"]
    assert entries[2]["kind"] == "duplicate_exact" and entries[2]["id"] == "id5"
    assert "repeats an earlier row" in entries[2]["reason"] and entries[2]["file"] == name
    assert undo(target, silence()) == ([target], 3)
    assert plain(target) == before
    if name.endswith((".csv", ".tsv", ".jsonl")):
        assert target.read_bytes() == source.read_bytes()
    if name.endswith(".parquet"):
        assert pq.read_table(target).equals(pq.read_table(source))
    assert not written.dropped_file.exists()


def test_nothing_is_overwritten_unasked(tmp_path):
    source = write(tmp_path / "t.csv")
    target = tmp_path / "clean.csv"
    clean(source, target)
    with pytest.raises(UserError, match="exists already"):
        clean(source, target)
    clean(source, target, force=True)
    with pytest.raises(UserError, match="source itself"):
        clean(source, source, force=True)
    with pytest.raises(UserError, match="name it so"):
        clean(source, tmp_path / "x.jsonl")


def test_undo_refuses_a_copy_that_was_changed(tmp_path):
    source = write(tmp_path / "t.csv")
    target = tmp_path / "c" / "t.csv"
    clean(source, target, repeat(source))
    target.write_text(target.read_text() + "new,a\r\n")
    with pytest.raises(UserError, match="changed since"):
        undo(target, silence())
    with pytest.raises(UserError, match="dropped.jsonl"):
        undo(source, silence())


def test_a_kept_row_stays_whatever_the_finding_says(tmp_path):
    source = write(tmp_path / "t.csv")
    decisions = [Decision(places(source)[4], "id5", "duplicate_exact", "keep")]
    assert clean(source, tmp_path / "c.csv", repeat(source), decisions=decisions).dropped == 0


def test_the_first_of_a_cluster_stays():
    cluster = ("f:2", "f:5", "f:9")
    finding = Finding(
        "near_duplicate", "warn", "3 rows ...", ("a", "b", "c"), cluster, clusters=(cluster,)
    )
    assert set(choose_rows([finding], ("near_duplicate",))) == {"f:5", "f:9"}
    with pytest.raises(UserError, match="near_duplicate"):
        choose_rows([finding], ("near_duplicat",))


@settings(max_examples=60, deadline=None)
@given(
    cells=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12),
        min_size=1,
        max_size=8,
    ),
    gone=st.sets(st.integers(0, 7)),
    changed=st.sets(st.integers(0, 7)),
    crlf=st.booleans(),
)
def test_csv_comes_back_byte_for_byte(tmp_path_factory, cells, gone, changed, crlf):
    folder = tmp_path_factory.mktemp("csv")
    end = "\r\n" if crlf else "\n"
    rows = [f'"{c.replace(chr(34), chr(34) * 2)}",l{i}' for i, c in enumerate(cells)]
    source = folder / "s.csv"
    source.write_bytes((end.join(["text,label", *rows])).encode())
    number = {place: i for i, (place, _) in enumerate(read_rows(str(source)))}

    def decide(place, row):
        if number[place] in gone:
            return Change("drop", "k", "r")
        return Change("redact", "k", "r", {"text": "new"}) if number[place] in changed else None

    entries = []
    [(path, shown, kind)] = files_to_edit(str(source))
    kept = rewrite(path, shown, kind, folder / "c.csv", decide, entries.append)
    assert kept.kept + kept.changed + kept.dropped == len(cells)
    put_back(folder / "c.csv", kind, folder / "b.csv", entries)
    assert (folder / "b.csv").read_bytes() == source.read_bytes()
