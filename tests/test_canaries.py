"""Canaries stand where they are planted, and a model that learned one ranks it first."""

import math

import pytest
from tests.model_zoo import make_tiny

from tunewright.canaries import CANDIDATES, CHANCE_BITS, _example, _secrets, measure_exposure, plant
from tunewright.config import make_recipe
from tunewright.data.layout import Layout
from tunewright.data.prepare import Prepared
from tunewright.errors import RecipeError
from tunewright.journal import silence
from tunewright.pipeline import train
from tunewright.records import Example, Splits
from tunewright.sections import Columns


def rows(task):
    splits = Splits((Example("a", "a:1", "x", "y"),), (), ())
    return Prepared(Layout(task, "table", Columns()), splits, (), {})


def test_planting_is_repeatable_and_only_where_text_is_written():
    first, again = (plant(rows("generate"), 3, 17, silence()).splits.train for _ in "ab")
    assert first == again and len(first) == 4 and first[1].output != first[2].output
    assert plant(rows("generate"), 3, 18, silence()).splits.train[1].output != first[1].output
    assert plant(rows("classify"), 0, 17, silence()).splits.train[0].id == "a"
    with pytest.raises(RecipeError, match="leave it at 0"):
        plant(rows("classify"), 1, 17, silence())
    assert _example(0, _secrets(0, 17)[0], "continue").output is None
    assert math.isclose(CHANCE_BITS, 1.4427, abs_tol=1e-4)


@pytest.mark.slow
def test_what_is_drilled_is_exposed(tmp_path):
    import json

    base = make_tiny("llama", tmp_path / "llama", scale=1.0)
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(
        json.dumps({"prompt": f"where is card {n}", "completion": "here"}) for n in range(30)
    ))  # fmt: skip
    report = train(make_recipe({
        "task": "generate", "base_model": str(base),
        "data": {"train": str(path), "validation": 0, "test": 0.2},
        "training": {"num_threads": 1, "precision": "fp32", "canaries": 4, "num_epochs": 60,
                     "learning_rate": 1e-2, "batch_size": 8},
        "evaluation": {"baselines": ["base"], "max_new_tokens": 4},
    }), tmp_path / "run", silence())  # fmt: skip
    found = report.details["canaries"]
    assert found["exposed"] and found["mean_bits"] > 6
    assert measure_exposure and CANDIDATES == 512
