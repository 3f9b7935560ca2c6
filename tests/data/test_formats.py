import gzip
import json
import os
import random
from pathlib import Path

import pytest

from tunewright.data import decode, formats, separated
from tunewright.data.formats import named_splits, read_rows
from tunewright.errors import DataError


def write(path: Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def rows_of(source: str, **options) -> list[dict]:
    return [row for _, row in read_rows(source, **options)]


def failure(source: str, **options) -> str:
    with pytest.raises(DataError) as caught:
        list(read_rows(source, **options))
    message = str(caught.value)
    assert "\n" not in message
    return message


PAIR = [{"text": "a, b", "label": "x"}, {"text": "c", "label": "y"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'text,label\n"a, b",x\nc,y\n'),
        ("crlf.csv", 'text,label\r\n"a, b",x\r\nc,y\r\n'),
        ("old_mac.csv", 'text,label\r"a, b",x\rc,y\r'),
        ("bom.csv", '\ufefftext,label\n"a, b",x\nc,y'),
        ("semicolon.csv", "text;label\na, b;x\nc;y\n"),
        ("bar.csv", "text|label\na, b|x\nc|y\n"),
        ("tab.tsv", "text\tlabel\na, b\tx\nc\ty\n"),
        ("table.txt", "text\tlabel\na, b\tx\nc\ty\n"),
        ("NoExtension", "text\tlabel\na, b\tx\nc\ty\n"),
        ("blank_lines.csv", 'text,label\n\n"a, b",x\n   \nc,y\n\n'),
        ("rows.jsonl", '{"text": "a, b", "label": "x"}\n\n{"text": "c", "label": "y"}\n'),
        ("rows.ndjson", '\ufeff{"text": "a, b", "label": "x"}\r\n{"text": "c", "label": "y"}'),
        ("list.json", json.dumps(PAIR)),
        ("wrapped.json", json.dumps({"version": 1, "data": PAIR})),
        ("columns.json", json.dumps({"text": ["a, b", "c"], "label": ["x", "y"]})),
        ("sniffed", json.dumps(PAIR)),
        ("sniffed_lines", "\n".join(map(json.dumps, PAIR))),
        ("packed.csv.gz", gzip.compress(b'text,label\n"a, b",x\nc,y\n', mtime=0)),
        ("packed.jsonl.gz", gzip.compress("\n".join(map(json.dumps, PAIR)).encode(), mtime=0)),
    ],
)
def test_every_way_of_writing_two_rows_reads_the_same(tmp_path, name, content):
    assert rows_of(write(tmp_path / name, content)) == PAIR


def test_places_name_the_line_on_which_a_record_begins(tmp_path):
    source = write(tmp_path / "t.csv", 'text,label\n"two\nlines",x\nc,y\n')
    assert [place for place, _ in read_rows(source)] == ["t.csv:2", "t.csv:4"]


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("e.csv", "", ["e.csv: empty (0 bytes)"]),
        ("e.csv", "\n\n", ["e.csv: empty; give a file with a header"]),
        ("e.csv", "text,label\n", ["e.csv: no rows in it"]),
        ("r.csv", "t,l\na,b\na,b,c\n", ["r.csv:3: 3 cells where the header has 2; put cells"]),
        ("r.csv", "a,b,c\n1,2,x\n1\n", ["r.csv:3: 1 cell where the header has 3; add the missing"]),
        ("q.csv", 'text,label\n"open,x\nb,y\n', ["q.csv:2: a quote is opened here and never"]),
        ("q.csv", 'text,label\n"a" b,x\n', ["q.csv:2: text between a closing quote"]),
        ("d.csv", "text,text\na,b\n", ["d.csv:1: column 'text' is named twice; rename one"]),
        (
            "n.csv",
            "some,ham\nother,ham\nmore,ham\n",
            ["n.csv:1: 'ham' stands 2 more times", "line with column names"],
        ),
        ("n.csv", "1.5,2\n2.5,3\n", ["n.csv:1: only numbers where column names belong"]),
        (
            "n.csv",
            "I did not get my card yet.,x\nb,y\n",
            ["n.csv:1: 'I did not get my card yet.' is a sentence"],
        ),
        ("n.csv", "a" * 300 + ",x\nb,y\n", ["n.csv:1: 'aaaa", "is a row, not a column name"]),
        (
            "l.csv",
            b"text,label\nok,x\ncaf\xe9,y\n",
            ["l.csv:3: byte 0xE9 at offset 19 is not UTF-8", "iconv"],
        ),
        (
            "u.csv",
            "text,label\na,b\n".encode("utf-16"),
            ["u.csv:1: byte 0xFF at offset 0 begins UTF-16"],
        ),
        ("b.csv", b"text,label\n\x00\x01\x02", ["b.csv: byte 0x00 at offset 11: binary"]),
        ("x.csv", b"PK\x03\x04rest", ["x.csv: is a zip archive or an Office file; unpack it"]),
        ("x.txt", b"%PDF-1.7", ["x.txt: is a PDF"]),
        ("b.jsonl", '{"a": 1}\n{"a": \n{"a": 3}\n', ["b.jsonl:2: broken JSON at column"]),
        ("b.jsonl", '{"a": 1}\n[1]\n', ["b.jsonl:2: a list, not an object"]),
        ("p.jsonl", '{\n  "a": 1\n}\n', ["p.jsonl:1: broken JSON", "use .json"]),
        ("b.json", '[{"a": 1},\n {"a": }]', ["b.json:2: broken JSON at column 8"]),
        ("l.json", '{"a": 1}\n{"a": 2}\n', ["l.json:2: broken JSON", ".jsonl"]),
        ("o.json", '{"a": 1}', ["o.json: an object without rows; give a list of objects"]),
        ("o.json", "[1, 2]", ["o.json:1: a number where an object belongs"]),
        ("o.json", "[" * 100_000, ["o.json: JSON that cannot be read (nested too deeply)"]),
        ("o.json", '{"a": [1, 2], "b": [1]}', ["o.json: an object without rows"]),
        ("d.gz", b"\x1f\x8b\x08broken", ["d.gz: damaged gzip data"]),
        (
            "t.csv.gz",
            gzip.compress(b"text,label\na,b\n" * 99, mtime=0)[:-20],
            ["damaged gzip data"],
        ),
        ("p.parquet", b"PAR1 and then nothing of use", ["p.parquet: damaged or not Arrow data"]),
        ("p.parquet", b"\x00\x01", ["p.parquet: damaged or not Arrow data"]),
        ("p.arrow", b"\x00\x01\x02", ["p.arrow: damaged or not Arrow data"]),
        ("w.xyz", "just words\nand more\n", ["w.xyz: extension .xyz unknown", "set data.format"]),
        ("words", "just words\nand more\n", ["words: no extension, and the content does not tell"]),
    ],
)
def test_bad_files_are_answered_with_place_value_and_remedy(tmp_path, name, content, parts):
    message = failure(write(tmp_path / name, content))
    for part in parts:
        assert part in message


def test_missing_file_and_folder_without_data(tmp_path):
    assert failure(str(tmp_path / "no.csv")).endswith(
        "no.csv: no such file or folder; check the path"
    )
    (tmp_path / "empty").mkdir()
    assert "empty: holds no data file" in failure(str(tmp_path / "empty"))


def test_sources_that_cannot_be_paths():
    assert "not a usable path" in failure("x" * 5000 + ".csv")
    assert "check" in failure("no\0such.csv")
    assert "not a usable path" in failure("~nobody-of-that-name/a.csv")


def test_a_cell_of_a_million_characters_is_read_whole(tmp_path):
    long = "word " * 200_000
    source = write(tmp_path / "long.csv", f'text,label\n"{long}",x\nb,y\n')
    assert rows_of(source)[0]["text"] == long


def test_gzip_that_expands_out_of_proportion_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "EXPANSION_ALLOWED_BYTES", 100_000)
    monkeypatch.setattr(decode, "MAX_EXPANSION", 10)
    bomb = gzip.compress(b"text,label\n" + b"a,b\n" * 1_000_000)
    assert "unpacks to more than" in failure(write(tmp_path / "bomb.csv.gz", bomb))


def test_a_gzip_bomb_is_refused_by_what_was_read_so_far_and_may_be_trusted(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "EXPANSION_ALLOWED_BYTES", 100_000)
    ordinary = b"text,label\n" + b"".join(b"%d is %d,b\n" % (n, n * n) for n in range(40_000))
    bomb = gzip.compress(b"text,label\n" + b"a" * 20_000_000 + b",b\n")
    path = write(tmp_path / "bomb.csv.gz", bomb + gzip.compress(ordinary))
    assert "if you trust it" in failure(path) and "TUNEWRIGHT_UNPACKED_GB" in failure(path)
    monkeypatch.setenv("TUNEWRIGHT_UNPACKED_GB", "0.1")
    assert len(rows_of(path)) == 40_002
    monkeypatch.delenv("TUNEWRIGHT_UNPACKED_GB")
    assert len(rows_of(write(tmp_path / "fair.csv.gz", gzip.compress(ordinary)))) == 40_000


@pytest.mark.parametrize("name", ["noise.jsonl.gz", "noise.csv"])
def test_random_bytes_are_no_question_of_encoding(tmp_path, name):
    noise = bytes(code or 1 for code in random.Random(4).randbytes(5000))
    said = failure(write(tmp_path / name, noise))
    assert "iconv" not in said
    assert ("no gzip data, although its name says so" in said) == name.endswith(".gz")


def test_a_packed_file_in_another_encoding_is_told_how(tmp_path):
    path = write(tmp_path / "l.csv.gz", gzip.compress("text,label\nfür,a\n".encode("latin-1")))
    assert "gunzip -c FILE | iconv" in failure(path)


def test_links_are_told_from_missing_files(tmp_path):
    (tmp_path / "a.csv").symlink_to(tmp_path / "b.csv")
    (tmp_path / "b.csv").symlink_to(tmp_path / "a.csv")
    (tmp_path / "lost.csv").symlink_to("gone.csv")
    assert "a symbolic link that leads back to itself" in failure(str(tmp_path / "a.csv"))
    assert "a symbolic link to gone.csv, which is not there" in failure(str(tmp_path / "lost.csv"))


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "MAX_LINE_CHARS", 1000)
    fair = f'{{"text": "{"a" * 900}", "label": "x"}}\n'
    assert len(rows_of(write(tmp_path / "fair.jsonl", fair * 3))) == 3
    for name in ("l.jsonl", "l.csv", "l.txt"):
        long = write(tmp_path / name, "text,label\n" + "a" * 3000)
        assert ":2: a line of more than 1,000 characters" in failure(long) or name == "l.jsonl"


def test_parquet_is_refused_by_what_it_declares(tmp_path, monkeypatch):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    from tunewright.data import arrow

    monkeypatch.setattr(arrow, "ROWS_ALLOWED", 10_000)
    monkeypatch.setattr(arrow, "EXPANSION_ALLOWED_BYTES", 100_000)
    label = pa.array(["x"] * 200_000)
    pq.write_table(pa.table({"text": label, "label": label}), tmp_path / "rows.parquet")
    assert "declares 200,000 rows in a file of" in failure(str(tmp_path / "rows.parquet"))
    plain = pa.table({"text": pa.array(["a" * 5000 + str(n) for n in range(500)])})
    pq.write_table(plain, tmp_path / "b.parquet", compression="zstd", use_dictionary=False)
    assert "unpacked bytes" in failure(str(tmp_path / "b.parquet"))
    monkeypatch.setenv("TUNEWRIGHT_UNPACKED_GB", "0.1")
    assert len(list(read_rows(str(tmp_path / "rows.parquet")))) == 200_000


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_one_long_value_in_a_dictionary_counts_in_every_row(tmp_path, monkeypatch, kind):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    from tunewright.data import arrow

    monkeypatch.setattr(arrow, "EXPANSION_ALLOWED_BYTES", 10_000_000)
    monkeypatch.setattr(arrow, "MAX_EXPANSION", 10)
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), ["word " * 200])
    short = pa.DictionaryArray.from_arrays(pa.array([0, 1] * 10_000, pa.int32()), ["x", "y"])
    for name, column in (("bomb", long), ("honest", short)):
        table = pa.table({"text": column, "label": short})
        path = tmp_path / f"{name}.{kind}"
        if kind == "parquet":
            pq.write_table(table, path)
        else:
            with pa.ipc.new_file(str(path), table.schema) as file:
                file.write_table(table)
    assert "unpacks to more than" in failure(str(tmp_path / f"bomb.{kind}"))
    assert len(list(read_rows(str(tmp_path / f"honest.{kind}")))) == 20_000


def test_quotes_in_tab_separated_text_are_text_unless_well_formed(tmp_path):
    stray = write(tmp_path / "stray.tsv", 'label\ttext\nham\t"Oh no\nspam\tWin "now"\n')
    assert [row["text"] for row in rows_of(stray)] == ['"Oh no', 'Win "now"']
    formed = write(tmp_path / "formed.tsv", 'label\ttext\nham\t"a\tb ""c"""\nspam\td\n')
    assert [row["text"] for row in rows_of(formed)] == ['a\tb "c"', "d"]


def test_unnamed_index_column_gets_a_plain_name(tmp_path):
    source = write(tmp_path / "index.csv", ",text,label\n0,a,x\n1,b,y\n")
    assert rows_of(source)[0] == {"column 1": "0", "text": "a", "label": "x"}


def test_text_files_by_line_or_by_paragraph(tmp_path):
    source = write(tmp_path / "book.txt", "\none\ntwo\n\n\nthree\n")
    assert list(read_rows(source)) == [
        ("book.txt:2", {"text": "one"}),
        ("book.txt:3", {"text": "two"}),
        ("book.txt:6", {"text": "three"}),
    ]
    assert list(read_rows(source, paragraphs=True)) == [
        ("book.txt:2", {"text": "one\ntwo"}),
        ("book.txt:6", {"text": "three"}),
    ]
    lines = write(tmp_path / "lines.txt", "one\ntwo\n")
    assert len(rows_of(lines, paragraphs=True)) == 2


def test_format_given_by_the_recipe_wins_over_the_name(tmp_path):
    source = write(tmp_path / "rows.dat", "\n".join(map(json.dumps, PAIR)))
    assert rows_of(source, format="jsonl") == PAIR


def test_parquet_arrow_and_saved_data_sets(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "tokens": datasets.Sequence(datasets.Value("string")),
            "tags": datasets.Sequence(datasets.ClassLabel(names=["O", "B-X"])),
            "label": datasets.ClassLabel(names=["no", "yes"]),
        }
    )
    columns = {"tokens": [["a", "b"], ["c"]], "tags": [[0, 1], [0]], "label": [1, -1]}
    wanted = [
        {"tokens": ["a", "b"], "tags": ["O", "B-X"], "label": "yes"},
        {"tokens": ["c"], "tags": ["O"], "label": None},
    ]
    data = datasets.Dataset.from_dict(columns, features=features)
    data.to_parquet(str(tmp_path / "d.parquet"))
    data.save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(
        str(tmp_path / "dict")
    )
    assert rows_of(str(tmp_path / "d.parquet")) == wanted
    assert rows_of(str(tmp_path / "saved")) == wanted
    assert rows_of(str(tmp_path / "dict")) == wanted
    assert rows_of(str(tmp_path / "dict"), split="test") == wanted[:1]
    assert named_splits(str(tmp_path / "dict")) == {"train", "test"}
    (part,) = (tmp_path / "saved").glob("*.arrow")
    assert [place for place, _ in read_rows(str(part))] == [f"{part.name}:1", f"{part.name}:2"]
    part.unlink()
    assert "missing from the saved dataset" in failure(str(tmp_path / "saved"))


def test_arrow_files_with_many_batches_are_read_in_order(tmp_path):
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"n": list(range(5000))})
    with pa.ipc.new_file(tmp_path / "f.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=3000)
    assert [row["n"] for row in rows_of(str(tmp_path / "f.arrow"))] == list(range(5000))


def test_folder_with_named_splits_gives_its_training_rows(tmp_path):
    write(tmp_path / "train.csv", "text,label\na,x\n")
    write(tmp_path / "test.csv", "text,label\nb,y\n")
    write(tmp_path / "README.md", "about")
    write(tmp_path / "LICENSE.txt", "free")
    folder = str(tmp_path)
    assert rows_of(folder) == [{"text": "a", "label": "x"}]
    assert (
        rows_of(folder, split="test") == rows_of(f"{folder}:test") == [{"text": "b", "label": "y"}]
    )
    assert named_splits(folder) == {"train", "test"}
    assert "no split 'validation'; splits here: test, train" in failure(folder, split="validation")


def test_folder_of_one_kind_is_read_sorted_and_mixed_kinds_are_refused(tmp_path):
    write(tmp_path / "b.csv", "text,label\nb,y\n")
    write(tmp_path / "a.csv", "text,label\na,x\n")
    assert [row["text"] for row in rows_of(str(tmp_path))] == ["a", "b"]
    write(tmp_path / "c.jsonl", '{"text": "c"}\n')
    assert "files of several kinds (1 jsonl, 2 csv)" in failure(str(tmp_path)).replace(
        "(2 csv, 1 jsonl)", "(1 jsonl, 2 csv)"
    )


def test_folder_per_class_of_text_files(tmp_path):
    write(tmp_path / "train" / "pos" / "1.txt", "good film\nvery")
    write(tmp_path / "train" / "neg" / "1.txt", "bad film")
    write(tmp_path / "test" / "pos" / "9.txt", "nice")
    write(tmp_path / "test" / "neg" / "9.txt", "awful")
    assert rows_of(str(tmp_path)) == [
        {"text": "bad film", "label": "neg"},
        {"text": "good film\nvery", "label": "pos"},
    ]
    assert [place for place, _ in read_rows(str(tmp_path / "test"))] == [
        "neg/9.txt:1",
        "pos/9.txt:1",
    ]
    assert named_splits(str(tmp_path)) == {"train", "test"}


def test_embedded_data_has_a_train_and_a_test_part():
    assert named_splits("embedded:support-tickets") == {"train", "test"}
    train = rows_of("embedded:support-tickets")
    test = rows_of("embedded:support-tickets:test")
    assert len(train) > len(test) > 100
    assert set(train[0]) == {"id", "text", "intent", "product", "channel"}
    assert "did you mean embedded:support-tickets?" in failure("embedded:support-ticket")


def test_rows_are_streamed(tmp_path, monkeypatch):
    path = tmp_path / "large.csv"
    with open(path, "w") as file:
        file.write("text,label\n")
        for number in range(200_000):
            file.write(f"row {number},x\n")
    rows = read_rows(str(path))
    assert next(rows)[1]["text"] == "row 0"
    rows.close()
    monkeypatch.setattr(separated, "MAX_CELL_CHARS", 20)
    write(tmp_path / "wide.csv", "text,label\n" + "w" * 50 + ",x\n")
    assert "a cell of more than 20 characters" in failure(str(tmp_path / "wide.csv"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path):
    source = write(tmp_path / "secret.csv", "text,label\na,b\n")
    os.chmod(source, 0)
    assert "cannot be read" in failure(source)


def test_every_extension_has_a_reader():
    from tunewright.data.listing import EXTENSIONS

    assert set(EXTENSIONS.values()) == set(formats.FORMATS)
