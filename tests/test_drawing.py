"""`evaluate --draws` and `--misspell`: pass@k of any metric that says right or wrong."""

import json

import pytest
from tests.model_zoo import make_tiny

from tunewright.asking import Draws, evaluate
from tunewright.errors import DataError, RecipeError
from tunewright.journal import silence


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("draw")
    make_tiny("llama", folder / "llama")
    rows = [{"prompt": f"say {n}", "completion": "[" * (n % 3 + 1)} for n in range(6)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def judged(place, metrics, **more):
    report = evaluate(
        str(place / "llama"), str(place / "rows.jsonl"), silence(), metrics=metrics, **more
    )
    (result,) = report.results
    return result.metrics


def test_pass_at_k_grows_with_k_and_has_intervals(place):
    found = judged(place, ("json_valid", "exact_match"), draws=Draws(5, temperature=1.5))
    names = [name for name in found if name.startswith("pass@")]
    assert names == ["pass@1", "pass@2", "pass@4", "pass@5"]
    values = [found[name].value for name in names]
    assert values == sorted(values) and 0 <= values[0] <= values[-1] <= 1
    assert all(found[name].ci95[0] <= found[name].value <= found[name].ci95[1] for name in names)
    again = judged(place, ("json_valid", "exact_match"), draws=Draws(5, temperature=1.5))
    assert [again[name].value for name in names] == values


def test_without_draws_nothing_is_drawn(place):
    assert set(judged(place, ("exact_match",))) == {"exact_match"}


def test_what_cannot_be_drawn_is_refused(place):
    with pytest.raises(RecipeError, match="right or wrong"):
        judged(place, ("bleu",), draws=Draws(2))
    with pytest.raises(DataError, match="--misspell"):
        judged(place, ("exact_match",), misspelt=0.5)
