import json
import os
import random
import time
from pathlib import Path

import pytest

from tunewright.config import parse_recipe
from tunewright.data import prepare as module
from tunewright.data.card import describe_lengths, histogram, make_card
from tunewright.data.prepare import prepare, read_for_evaluation
from tunewright.data.suggest import suggest_recipe
from tunewright.errors import DataError
from tunewright.journal import Journal, silence
from tunewright.sections import Columns, DataSection


def write_csv(path: Path, rows, header="text,label") -> str:
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    return str(path)


def tickets(count=100):
    return [(f"ticket number {i} about things", "ab"[i % 2]) for i in range(count)]


def test_a_file_becomes_three_splits(tmp_path):
    journal = Journal()
    prepared = prepare(DataSection(train=write_csv(tmp_path / "t.csv", tickets())), None, journal)
    sizes = [
        len(side)
        for side in (prepared.splits.train, prepared.splits.validation, prepared.splits.test)
    ]
    assert (prepared.task, sizes) == ("classify", [80, 10, 10])
    assert prepared.layout.labels == ("a", "b")


def test_row_order_plays_no_part(tmp_path):
    rows = [*tickets(), *tickets(10)]
    first = prepare(DataSection(train=write_csv(tmp_path / "a.csv", rows)), None, silence())
    random.Random(1).shuffle(rows)
    second = prepare(DataSection(train=write_csv(tmp_path / "b.csv", rows)), None, silence())
    for side in ("train", "validation", "test"):
        ids = [{e.id for e in getattr(p.splits, side)} for p in (first, second)]
        assert ids[0] == ids[1]


def test_test_and_validation_files(tmp_path):
    train = write_csv(tmp_path / "t.csv", [*tickets(), ("In BOTH files", "a")])
    test = write_csv(tmp_path / "test.csv", [("in both files!", "a"), ("brand new", "c")])
    journal = Journal()
    prepared = prepare(DataSection(train=train, test=test), None, journal)
    found = {finding.kind: finding for finding in prepared.findings}
    assert found["leak_text"].places == ("t.csv:102",)
    assert found["unseen_label"].places == ("test.csv:3",)
    assert prepared.layout.labels == ("a", "b", "c")
    assert [e.place for e in prepared.splits.test] == ["test.csv:2", "test.csv:3"]
    assert any("removed from training" in text for text in journal.warnings)


def test_a_folder_with_its_own_test_split_uses_it(tmp_path):
    write_csv(tmp_path / "train.csv", tickets())
    write_csv(tmp_path / "test.csv", [("held out", "a"), ("held out too", "b")])
    prepared = prepare(DataSection(train=str(tmp_path)), None, silence())
    assert len(prepared.splits.test) == 2
    assert "own_split" in {finding.kind for finding in prepared.findings}
    divided = prepare(DataSection(train=str(tmp_path), test=0.2), None, silence())
    assert len(divided.splits.test) == 20


def test_a_test_split_of_its_own_without_labels_is_left_alone(tmp_path):
    write_csv(tmp_path / "train.csv", tickets())
    write_csv(tmp_path / "test.csv", [("no label here", ""), ("nor here", "")])
    prepared = prepare(DataSection(train=str(tmp_path)), None, silence())
    assert len(prepared.splits.test) == 10
    assert "own_split_unusable" in {finding.kind for finding in prepared.findings}


def test_references_of_one_input_are_judged_together(tmp_path):
    rows = [
        {"mr": f"name[{i // 4}]", "ref": f"a place called {i // 4}, said in way {i % 4}"}
        for i in range(120)
    ]
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    prepared = prepare(DataSection(train=str(path)), "generate", silence())
    assert len(prepared.splits.train) == 96
    assert all(not e.references for e in prepared.splits.train)
    assert len(prepared.splits.test) == 3
    for example in prepared.splits.test:
        assert len(example.references) == 4 and example.output == example.references[0]
    assert "multi_reference" in {finding.kind for finding in prepared.findings}
    held = read_for_evaluation(str(path), DataSection(), prepared.layout, silence())
    assert len(held) == 30


def test_max_rows(tmp_path):
    data = DataSection(train=write_csv(tmp_path / "t.csv", tickets()), max_rows=50)
    splits = prepare(data, None, silence()).splits
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 50


def test_groups_stay_together(tmp_path):
    rows = [(f"ticket number {i} about things", "ab"[i % 2], f"c{i % 20}") for i in range(200)]
    data = DataSection(
        train=write_csv(tmp_path / "t.csv", rows, "text,label,customer"), group="customer"
    )
    splits = prepare(data, None, silence()).splits
    groups = [{e.group for e in side} for side in (splits.train, splits.validation, splits.test)]
    assert groups[1] and groups[2]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (
            "text,label\n" + "".join(f"text {i} is here,same\n" for i in range(20)),
            "only one class, 'same'",
        ),
        ("text\n" + "".join(f"text {i}\n" for i in range(20)), "only one column, 'text'"),
        (
            "text,label\n"
            + "".join(f"text {i} is here,{'ab'[i % 2] if i < 6 else ''}\n" for i in range(20)),
            "rows have no label",
        ),
    ],
)
def test_data_that_cannot_teach_is_refused(tmp_path, content, part):
    path = tmp_path / "t.csv"
    path.write_text(content)
    data = DataSection(
        train=str(path), columns=Columns(output="label") if "label" in content else Columns()
    )
    with pytest.raises(DataError, match=part):
        prepare(data, "classify", silence())


def test_test_file_without_the_needed_column(tmp_path):
    train = write_csv(tmp_path / "t.csv", tickets())
    test = write_csv(tmp_path / "test.csv", [("a", "b")], "text,class")
    with pytest.raises(DataError, match=r"test.csv: no column 'label', which training has"):
        prepare(DataSection(train=train, test=test), None, silence())


def test_no_training_data_named():
    with pytest.raises(DataError, match="data.train is not set"):
        prepare(DataSection(), None, silence())


def test_large_files_show_progress(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PROGRESS_FROM_BYTES", 10)
    monkeypatch.setattr(module, "PROGRESS_EVERY_ROWS", 10)
    seen = []

    class Watching(Journal):
        def progress(self, what, total):
            from contextlib import contextmanager

            @contextmanager
            def bar():
                yield lambda done, note="": seen.append((done / total, note))

            return bar()

    prepare(DataSection(train=write_csv(tmp_path / "t.csv", tickets())), None, Watching())
    assert seen[0][1] == "10 rows" and seen[-1][0] == 1.0
    assert all(0 <= share <= 1 for share, _ in seen)


def test_ten_thousand_rows_take_little_time(tmp_path):
    rows = [
        (f"ticket {i} about {i * 7919 % 1013} things of kind {i % 77}", f"label{i % 77}")
        for i in range(10_000)
    ]
    source = write_csv(tmp_path / "t.csv", rows)
    started = time.process_time()
    prepare(DataSection(train=source), None, silence())
    assert time.process_time() - started < 4  # about 1 s; room for a slow machine


def test_card_counts_everything(tmp_path):
    rows = [*tickets(), ("", "a"), ("ticket number 1 about things", "b")]
    prepared = prepare(DataSection(train=write_csv(tmp_path / "t.csv", rows)), None, silence())
    lengths = {"train": [len(e.input.split()) for e in prepared.splits.train]}
    card = json.loads(json.dumps(make_card(prepared, lengths), allow_nan=False))
    assert card["task"] == "classify" and card["labels"] == ["a", "b"]
    kept = sum(card["rows"][side] for side in ("train", "validation", "test"))
    assert card["rows"]["read"]["train"] == 102 and kept == 101
    assert card["rows"]["dropped"] == {"empty_input": 1}
    assert card["dropped"] == [
        {"id": card["dropped"][0]["id"], "place": "t.csv:102", "why": "empty_input"}
    ]
    train = card["splits"]["train"]
    assert sum(train["labels"].values()) == train["rows"]
    assert train["tokens"]["max"] == 5 and sum(train["token_histogram"]["counts"]) == train["rows"]
    assert "tokens" not in card["splits"]["test"]


def test_card_of_numbers_and_of_text(tmp_path):
    path = tmp_path / "n.jsonl"
    path.write_text(
        "\n".join(
            json.dumps({"text": f"a house with {i} rooms", "price": i * 1.5}) for i in range(50)
        )
    )
    card = make_card(prepare(DataSection(train=str(path)), None, silence()))
    assert card["splits"]["train"]["target"]["max"] == 73.5
    path.write_text(
        "\n".join(json.dumps({"prompt": f"q {i}", "completion": f"a {i}"}) for i in range(50))
    )
    card = make_card(prepare(DataSection(train=str(path)), None, silence()))
    assert card["splits"]["train"]["output_words"]["mean"] == 2


def test_lengths_and_histogram():
    assert describe_lengths([]) is None and histogram([]) is None
    assert describe_lengths([1, 2, 9])["median"] == 2
    assert sum(histogram([3, 3, 3])["counts"]) == 3
    bins = histogram(list(range(100)), num_bins=10)
    assert bins["counts"] == [10] * 10 and len(bins["edges"]) == 11


@pytest.mark.parametrize(
    ("rows", "task", "base"),
    [
        (
            [
                {"text": f"words about {i}", "label: x": "ab"[i % 2], "customer_id": f"c{i % 9}"}
                for i in range(60)
            ],
            "classify",
            "embedded:minilm",
        ),
        (
            [{"prompt": f"q {i}", "completion": f"a {i}"} for i in range(30)],
            "generate",
            "Qwen/Qwen3-0.6B",
        ),
        (
            [{"tokens": ["Call", f"Ada{i}"], "ner_tags": ["O", "B-N"]} for i in range(30)],
            "tag",
            "embedded:minilm",
        ),
    ],
)
def test_suggested_recipes_can_be_read_and_give_the_same_data(tmp_path, rows, task, base):
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    text = suggest_recipe(str(path), None)
    recipe = parse_recipe(text, "made.yaml")
    assert (recipe.task, recipe.base_model, recipe.data.train) == (task, base, str(path))
    again = prepare(recipe.data, recipe.task, silence())
    before = prepare(DataSection(train=str(path)), None, silence())
    assert again.splits.train == before.splits.train
    assert ("group: customer_id" in text) == (task == "classify")


def test_suggestions_name_the_metrics_that_they_are_given(tmp_path):
    source = write_csv(tmp_path / "t.csv", tickets())
    text = suggest_recipe(source, None, metrics_for=lambda task, rows, labels: ("accuracy", "mcc"))
    assert "metrics: auto  # accuracy decides; also mcc" in text


REAL = Path(os.environ.get("TUNEWRIGHT_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.mark.skipif(not REAL.is_dir(), reason="no real data here; set TUNEWRIGHT_DATA")
def test_e2e_references_stay_on_one_side():
    data = DataSection(train=str(REAL / "e2e_nlg" / "devset.csv"), group="mr")
    prepared = prepare(data, None, silence())
    assert prepared.task == "generate" and prepared.layout.columns.input == "mr"
    sides = [
        {e.input for e in side}
        for side in (prepared.splits.train, prepared.splits.validation, prepared.splits.test)
    ]
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
    assert len(sides[2]) == len(prepared.splits.test)


def test_embedded_tickets_with_their_planted_leaks():
    prepared = prepare(DataSection(train="embedded:support-tickets"), None, silence())
    columns = prepared.layout.columns
    assert (columns.input, columns.output, columns.categorical) == (
        "text",
        "intent",
        ("product", "channel"),
    )
    assert len(prepared.layout.labels) >= 15
    assert "leak_exact" in {finding.kind for finding in prepared.findings}


DAMAGE = [
    b'"',
    b",",
    b"\n",
    b"[",
    b"}",
    b"\r",
    b"\xff",
    b"null",
    b"\\ud800",
    b"1e999",
    b"NaN",
    b"\0",
]


def seeds_of_each_format(folder: Path) -> dict[str, bytes]:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = pa.table({"text": ["a b", "c d", "e"] * 5, "label": ["x", "y", None] * 5})
    pq.write_table(table, folder / "s.parquet")
    with pa.ipc.new_stream(folder / "s.arrow", table.schema) as writer:
        writer.write_table(table)
    talk = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    return {
        "csv": b'text,label\n"a, b",x\nc,y\nd,x\ne,y\n',
        "json": json.dumps([{"text": f"a {i}", "label": "xy"[i % 2]} for i in range(5)]).encode(),
        "jsonl": (json.dumps(talk) + "\n").encode() * 5,
        "parquet": (folder / "s.parquet").read_bytes(),
        "arrow": (folder / "s.arrow").read_bytes(),
    }


@pytest.mark.parametrize("extension", ["csv", "json", "jsonl", "parquet", "arrow", ""])
def test_damaged_files_end_in_one_line_or_in_examples(tmp_path, extension):
    seeds = seeds_of_each_format(tmp_path)
    draw = random.Random(extension)
    refused = 0
    for number in range(60):
        content = bytearray(seeds[extension or draw.choice(list(seeds))])
        for _ in range(draw.randrange(1, 5)):
            at = draw.randrange(len(content))
            if draw.random() < 0.5:
                content[at] = draw.randrange(256)
            else:
                content[at:at] = draw.choice(DAMAGE)
        path = tmp_path / f"f{number}.{extension}".rstrip(".")
        path.write_bytes(content)
        try:
            prepare(DataSection(train=str(path)), None, silence())
        except DataError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 2000
    assert refused > 10


@pytest.mark.parametrize(
    "extra",
    [{"tools": 3}, {"tools": "x"}, {"history": 1}, {"history": ["ab"]}, {"tools": [1]}],
)
def test_odd_extras_of_conversations_are_named(tmp_path, extra):
    path = tmp_path / "d.jsonl"
    path.write_text(
        "\n".join(json.dumps({"prompt": "q", "completion": "a", **extra}) for _ in range(3))
    )
    with pytest.raises(DataError, match=r"d.jsonl:1: (tools|history) holds"):
        prepare(DataSection(train=str(path)), None, silence())
