"""Rows from the cache are the rows that were prepared, whichever process did it."""

import json
import random

import numpy as np
import pytest

from model_zoo import make_tiny
from tunewright import preparing, tokenising
from tunewright.cache import Entry, cache_folder
from tunewright.config import parse_recipe
from tunewright.data.example_file import StoredExamples, write_examples
from tunewright.data.prepare import prepare
from tunewright.data.render import Rendering, Row, render
from tunewright.data.row_file import StoredRows, digest_rows, first_by_id, row_lengths, write_rows
from tunewright.errors import DataError, Refusal
from tunewright.journal import Journal
from tunewright.preparing import load_prepared, prepare_for_training
from tunewright.records import Example, Message, Span
from tunewright.tokenising import render_for_training


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return lambda kind: make_tiny(kind, folder / kind)


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))


class Ear(Journal):
    def __init__(self):
        super().__init__()
        self.heard = []

    def say(self, text):
        self.heard.append(text)


EXAMPLES = (
    Example("a", "f:1", "text"),
    Example("b", "f:2", "", "label", group="g", weight=0.5),
    Example("c", "f:3", "zwei Wörter \u2028", 3.25, columns=(("x", 1.5), ("y", None), ("z", "q"))),
    Example("d", "f:4", "tags", (Span(0, 2, "loc"), Span(2, 4, "per"))),
    Example("e", "f:5", "none of them", ()),
    Example("f", "f:6", "many", ("one", "two"), references=("r", "s"), rejected="worse"),
    Example(
        "g", "f:7", "talk", "said",
        messages=(Message("user", "hi", None, (), "Ann"),
                  Message("assistant", "said", 0.0, ({"id": "1", "function": {"name": "f"}},), None, "t")),
        tools=({"type": "function", "function": {"name": "f"}},),
    ),
)  # fmt: skip


def test_examples_come_back_as_they_were(tmp_path):
    many = [*EXAMPLES] * 700  # several batches
    write_examples(tmp_path / "x.arrow", many)
    stored = StoredExamples(tmp_path / "x.arrow")
    assert len(stored) == 4900 and list(stored) == many
    assert stored[3:9] == tuple(many[3:9]) and stored[1998:2003] == tuple(many[1998:2003])
    assert stored[-1] == many[-1] and stored[::1000] == tuple(many[::1000])
    assert stored + stored == (*many, *many) and ("x",) + stored == ("x", *many)
    with pytest.raises(IndexError):
        stored[4900]
    write_examples(tmp_path / "none.arrow", [])
    assert list(StoredExamples(tmp_path / "none.arrow")) == []


def test_rows_come_back_as_they_were(tmp_path):
    ids = np.arange(5, dtype=np.int32)
    weights = np.array([0, 0, 1, 1, 0.5], np.float32)
    rows = [
        Row("a", ids, weights, weight=0.25, lost_targets=3),
        Row("ü/2", ids[:2], target=4),
        Row("c", ids[:1], target=-2.5),
        Row("d", ids, target=np.array([-100, 1, 2, 3, -100], np.int32)),
        Row("e", ids, target=np.array([0, 1], np.float32)),
        Row("f", ids, np.ones(3, np.float32), ids[:3]),
    ]
    for part, some in enumerate((rows[:1], rows[1:])):
        (tmp_path / f"part-{part:06d}").mkdir()
        write_rows(tmp_path / f"part-{part:06d}", some)
    stored = StoredRows(tmp_path)
    assert len(stored) == 6
    for found, wanted in zip(stored, rows, strict=True):
        assert (found.id, found.weight, found.lost_targets, found.num_tokens) == (
            wanted.id, wanted.weight, wanted.lost_targets, wanted.num_tokens,
        )  # fmt: skip
        assert type(found.target) is type(wanted.target)
        for name in ("input_ids", "target_weights", "target"):
            a, b = getattr(found, name), getattr(wanted, name)
            assert np.array_equal(a, b)
            assert getattr(a, "dtype", None) == getattr(b, "dtype", None)
        assert found.is_seq2seq == wanted.is_seq2seq
        assert found.target_weight == wanted.target_weight
    assert digest_rows(stored) == digest_rows(rows) == StoredRows(tmp_path).digest
    assert row_lengths(stored).tolist() == row_lengths(rows).tolist()
    assert stored.lost_targets.tolist() == [3, 0, 0, 0, 0, 0]
    assert [row.id for row in first_by_id(stored, 2)] == ["a", "c"]


def recipe_for(tmp_path, count=300, overrides=()):
    stream = random.Random(4)
    rows = [
        {"prompt": f"question {i} about {stream.choice('abcdef')} things", "completion": f"answer {i % 7}"}
        for i in range(count)
    ]  # fmt: skip
    rows += rows[:5] + [{"prompt": "", "completion": "x"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    text = f"task: generate\nbase_model: x\ndata: {{train: {path}}}\n"
    return parse_recipe(text, "test", list(overrides))


@pytest.mark.parametrize("apart", [False, True])
def test_a_second_start_finds_what_the_first_one_prepared(tmp_path, monkeypatch, apart):
    recipe = recipe_for(tmp_path)
    if apart:
        monkeypatch.setattr(preparing, "LARGE_BYTES", 0)
    journals = Ear(), Ear()
    first = prepare_for_training(recipe, journals[0])
    monkeypatch.setattr(preparing, "prepare", None)  # nothing is read again
    second = prepare_for_training(recipe, journals[1])
    assert isinstance(second.splits.train, StoredExamples)
    for side in ("train", "validation", "test"):
        assert tuple(getattr(first.splits, side)) == tuple(getattr(second.splits, side))
    assert first.findings == second.findings and first.layout == second.layout
    assert (first.card, first.metrics, first.digest) == (
        second.card,
        second.metrics,
        second.digest,
    )
    assert journals[0].warnings == journals[1].warnings
    assert journals[1].heard[:-1] == journals[0].heard and "from the cache" in journals[1].heard[-1]
    plain = prepare(recipe.data, recipe.task, Journal())
    assert tuple(second.splits.train) == plain.splits.train


def test_other_content_settings_or_seed_are_other_rows(tmp_path):
    recipe = recipe_for(tmp_path)
    names = {prepare_for_training(recipe, Journal()).digest}
    names.add(prepare_for_training(recipe_for(tmp_path, 301), Journal()).digest)
    names.add(
        prepare_for_training(recipe_for(tmp_path, 301, ["data.split_seed=9"]), Journal()).digest
    )
    names.add(
        prepare_for_training(recipe_for(tmp_path, 301, ["training.seed=9"]), Journal()).digest
    )
    assert len(names) == 4 and None not in names


def test_a_mistake_in_the_data_is_told_as_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(preparing, "LARGE_BYTES", 0)
    recipe = recipe_for(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": ')
    with pytest.raises(DataError, match=r"rows.jsonl:2: broken JSON"):
        prepare_for_training(recipe, Journal())
    assert not list(cache_folder().glob("rows/*"))


def test_without_a_cache_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE_GB", "0")
    assert prepare_for_training(recipe_for(tmp_path), Journal()).digest is None
    assert not cache_folder().exists()
    monkeypatch.delenv("TUNEWRIGHT_CACHE_GB")
    (tmp_path / "cache").write_text("a file where the folder belongs")
    assert prepare_for_training(recipe_for(tmp_path), Journal()).digest is None


def stored_prepared(tmp_path):
    recipe = recipe_for(tmp_path)
    first = prepare_for_training(recipe, Journal())
    return load_prepared(Entry("rows", first.digest).path)


def test_tokens_made_apart_are_the_tokens_made_here(tmp_path, tiny, monkeypatch):
    from tunewright.model.load import load_base

    tokenizer = load_base(str(tiny("llama")), task="generate").tokenizer
    prepared = stored_prepared(tmp_path)
    how = Rendering("generate", tokenizer, 64)
    monkeypatch.setattr(tokenising, "PART_EXAMPLES", 40)
    assert not isinstance(render_for_training(prepared, how, Journal()), StoredRows)
    monkeypatch.setattr(tokenising, "FEW_ROWS", 10)
    expected = render(prepared.splits.train, how)
    rows = render_for_training(prepared, how, Journal())
    assert isinstance(rows, StoredRows) and digest_rows(rows) == digest_rows(expected)
    monkeypatch.setattr(tokenising, "render", None)  # nothing is made again
    assert digest_rows(render_for_training(prepared, how, Journal())) == digest_rows(expected)


def test_tokens_go_on_where_a_killed_run_stopped(tmp_path, tiny, monkeypatch):
    from tunewright.model.load import load_base

    tokenizer = load_base(str(tiny("llama")), task="generate").tokenizer
    prepared = stored_prepared(tmp_path)
    how = Rendering("generate", tokenizer, 64)
    monkeypatch.setattr(tokenising, "PART_EXAMPLES", 40)
    monkeypatch.setattr(tokenising, "FEW_ROWS", 10)
    monkeypatch.setattr(tokenising, "usable_processors", lambda: 1)
    real = tokenising.render

    def dies(examples, rendering):
        if examples[0] == prepared.splits.train[80]:
            raise Refusal("as if it had been killed")
        return real(examples, rendering)

    monkeypatch.setattr(tokenising, "render", dies)
    with pytest.raises(RuntimeError, match="failed in a process of its own"):
        render_for_training(prepared, how, Journal())
    (partial,) = cache_folder().glob("tokens/*.partial")
    assert sorted(path.name for path in partial.glob("part-*[0-9]")) == [
        "part-000000",
        "part-000001",
    ]
    seen = tmp_path / "seen"

    def counts(examples, rendering):
        with open(seen, "a") as file:
            file.write("x")
        return real(examples, rendering)

    monkeypatch.setattr(tokenising, "render", counts)
    rows = render_for_training(prepared, how, Journal())
    assert digest_rows(rows) == digest_rows(real(prepared.splits.train, how))
    assert len(seen.read_text()) == -(-len(prepared.splits.train) // 40) - 2


def test_a_row_that_cannot_be_rendered_is_named(tmp_path, tiny, monkeypatch):
    from tunewright.model.load import load_base

    tokenizer = load_base(str(tiny("qwen3")), task="generate").tokenizer
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    prepared = stored_prepared(tmp_path)
    monkeypatch.setattr(tokenising, "FEW_ROWS", 10)
    how = Rendering("generate", tokenizer, 64, native_template=True)
    with pytest.raises(DataError, match=r"rows.jsonl:\d+: the chat template refuses"):
        render_for_training(prepared, how, Journal())
