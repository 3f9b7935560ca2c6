"""`init` writes a recipe that `train` can read, and never over another one."""

import pytest

from tunewright.config import read_recipe

QUESTIONS = ("where is my parcel", "the card was refused", "please close my account")
LABELS = ("delivery", "card", "account")


@pytest.fixture
def tickets(tmp_path):
    rows = [
        f"{question} {number} {'again' * (number % 3)},{label}"
        for number in range(20)
        for question, label in zip(QUESTIONS, LABELS, strict=True)
    ]
    path = tmp_path / "tickets.csv"
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return path


def test_the_recipe_can_be_read_back(tunewright, tickets, tmp_path):
    ended = tunewright("init", tickets.name, "--json")
    assert ended.status == 0, ended.err
    assert ended.document["task"] == "classify"
    recipe = read_recipe(tmp_path / ended.document["recipe"])
    assert recipe.task == "classify"
    assert recipe.data.columns.input == "text"
    assert recipe.data.columns.output == "label"


def test_what_was_found_is_shown(tunewright, tickets, tmp_path):
    ended = tunewright("init", tickets.name, "--out", "made/first.yaml")
    assert ended.status == 0, ended.err
    assert (tmp_path / "made" / "first.yaml").read_text().strip() in ended.out
    assert "tunewright train made/first.yaml" in ended.out
    assert "decides" in ended.out


def test_a_recipe_is_never_overwritten_unasked(tunewright, tickets, tmp_path):
    (tmp_path / "recipe.yaml").write_text("precious")
    ended = tunewright("init", tickets.name)
    assert ended.status == 2
    assert "--force" in ended.err
    assert (tmp_path / "recipe.yaml").read_text() == "precious"
    assert tunewright("init", tickets.name, "--force").status == 0
    assert "classify" in (tmp_path / "recipe.yaml").read_text()


def test_a_folder_is_no_recipe_file(tunewright, tickets, tmp_path):
    ended = tunewright("init", tickets.name, "--out", tmp_path)
    assert ended.status == 2
    assert "recipe.yaml" in ended.err


@pytest.mark.parametrize("content", ["", "text,label\n", "\x00\x01\x02", 'text,label\n"open'])
def test_unfit_data_is_one_line_and_leaves_nothing(tunewright, tmp_path, content):
    (tmp_path / "bad.csv").write_text(content)
    ended = tunewright("init", "bad.csv")
    assert ended.status == 2
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert "bad.csv" in ended.err
    assert not (tmp_path / "recipe.yaml").exists()
