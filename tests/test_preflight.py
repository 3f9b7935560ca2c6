"""Preflight: base, lengths, lost tokens, memory and disk, before a weight is loaded."""

from pathlib import Path

import pytest

from tunewright.config import make_recipe
from tunewright.data.prepare import prepare
from tunewright.errors import ModelError
from tunewright.journal import silence
from tunewright.preflight import preflight


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "t.csv"
    lines = [f"please send invoice number {n} again,invoice" for n in range(20)]
    lines += [f"my login {n} does not work,login" for n in range(20)]
    lines[3] = "the end came [SEP] too soon for me and for you,invoice"
    path.write_text("\n".join(["text,label", *lines]))
    return path


def fly(path, tmp_path, **values):
    recipe = make_recipe({"data": {"train": str(path)}, "base_model": "embedded:minilm", **values})
    return preflight(recipe, prepare(recipe.data, None, silence()), tmp_path / "runs", silence())


def test_facts_lengths_and_the_first_row(rows, tmp_path):
    ready = fly(rows, tmp_path)
    assert set(ready.facts) >= {"base", "memory", "time", "disk", "longest row"}
    assert "→ [" in ready.facts["first row, [learned]"]
    assert len(ready.token_lengths) > 20 and min(ready.token_lengths) > 5
    assert not [item for item in ready.findings if item.severity == "error"]


def test_special_tokens_of_this_tokenizer(rows, tmp_path):
    text = rows.read_text().replace("[SEP]", "[unused]")
    rows.write_text(text)
    assert not fly(rows, tmp_path).findings


def test_a_run_that_does_not_fit_is_an_error(rows, tmp_path):
    ready = fly(rows, tmp_path, budget={"memory_gb": 0.01})
    assert [item.kind for item in ready.findings if item.severity == "error"] == ["memory"]


def test_a_base_that_is_not_there(rows, tmp_path):
    with pytest.raises(ModelError):
        fly(rows, tmp_path, base_model=str(Path(tmp_path) / "none"))
