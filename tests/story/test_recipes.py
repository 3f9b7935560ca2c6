"""`recipes/` and the tutorials: each recipe reads, each tutorial plays in small from end to end."""

import json
import sys
from pathlib import Path

import pytest

from tunewright.config import read_recipe
from tunewright.metrics.table import check_metrics

REPO = Path(__file__).parents[2]
sys.path.insert(0, str(REPO / "bench"))

import stories  # noqa: E402

RECIPES = sorted(path for path in (REPO / "recipes").glob("*.yaml") if path.stem != "prices")
TUTORIALS = REPO / "docs" / "tutorials"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_reads_and_its_metrics_fit(path):
    recipe = read_recipe(path)
    assert recipe.task is not None
    check_metrics(recipe.evaluation.metrics, recipe.task)


def test_every_recipe_is_used_by_a_tutorial():
    used = {word for page in TUTORIALS.glob("*.md") for command in stories.commands_of(page)
            for word in command if word.startswith("recipes/")}  # fmt: skip
    assert used == {f"recipes/{path.name}" for path in [*RECIPES, REPO / "recipes/prices.yaml"]}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", stories.STORIES)
def test_a_story_plays_in_small(name, tmp_path):
    told = stories.play(name, tmp_path, small=True)
    assert len(told) >= 5
    bars, more = stories.STORIES[name][2](tmp_path, told)
    assert bars and json.dumps(more)
    for recipe in (tmp_path / "runs").glob("*/recipe.yaml"):  # retune keeps its rows beside
        assert (recipe.parent / "report.html").is_file(), recipe.parent
