"""The command line as a whole: usage errors, help, version, laziness."""

import pytest

from tunewright.cli.main import COMMANDS


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("trian recipe.yaml", "'train'"),
        ("train", "missing argument"),
        ("train r.yaml --resum", "--resume"),
        ("train r.yaml --run-dir", "requires an argument"),
        ("compare a", "missing argument"),
        ("evaluate m", "'--data'"),
        ("train nowhere.yaml", "no such recipe"),
        ("train rows.csv", "tunewright init rows.csv"),
        ("init nowhere.csv", "no such file"),
        ("init nowhere.csv --task clasify", "did you mean classify"),
        ("evaluate m --data nowhere.csv", "no such file"),
        ("report nowhere", "no such run folder"),
        ("report x --format pdf", "terminal, md, html, json"),
        ("runs nowhere", "cannot be listed"),
        ("chat m --json", "--message"),
        ("chat m --message=", "empty"),
        ("quickstart --resume", "no run to resume"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_mistakes_are_one_line_with_a_remedy(tunewright, line, expected, as_json):
    words = line.split()
    if as_json and "--json" not in words:
        words.insert(1, "--json")
    ended = tunewright(*words)
    assert ended.status == 2
    assert expected in ended.err
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    if "--json" in words:
        assert ended.document["error"]["exit_status"] == 2
    else:
        assert ended.out == ""


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_help_shows_examples_and_exit_statuses(tunewright, command):
    name = command.__name__.rstrip("_")
    ended = tunewright(name, "--help")
    assert ended.status == 0
    assert ended.err == ""
    assert f"tunewright {name}" in ended.out
    for wanted in ("Example:", "Exit status:", "--json", "4 our own fault"):
        assert wanted in ended.out


def test_no_words_at_all_show_the_help(tunewright):
    assert tunewright().status == 0
    assert tunewright().out.strip() == tunewright("--help").out.strip()


def test_version(tunewright):
    assert tunewright("--version").out.startswith("tunewright 0.")


def test_train_names_the_wrong_key(tunewright, tmp_path):
    (tmp_path / "r.yaml").write_text("adapter:\n  rank: 8\n")
    ended = tunewright("train", "r.yaml")
    assert ended.status == 2
    assert "r.yaml:2: unknown key adapter.rank" in ended.err


def test_train_says_what_is_wrong_with_an_override(tunewright, tmp_path):
    (tmp_path / "r.yaml").write_text("data: {train: rows.csv}\n")
    ended = tunewright("train", "r.yaml", "--set", "adapter.r=none")
    assert ended.status == 2
    assert "adapter.r" in ended.err
    assert not (tmp_path / "runs").exists()


def test_resume_without_a_run_says_so(tunewright, tmp_path):
    (tmp_path / "r.yaml").write_text("data: {train: rows.csv}\n")
    ended = tunewright("train", "r.yaml", "--resume")
    assert ended.status == 2
    assert "no run to resume" in ended.err
