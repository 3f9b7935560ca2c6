"""`make bars` counts honestly."""

import json

import pytest
from bench.bars import RESULTS, main, read_bars


def write(folder, **bar):
    values = {"bar": "accuracy", "figure": 93.6, "goal": 93.6, "better": "higher", **bar}
    number = len(list(folder.iterdir()))
    (folder / f"{number}.json").write_text(json.dumps({"case": "c", "bars": [values]}))


@pytest.mark.parametrize(
    ("figure", "better", "passes"),
    [
        (93.6, "higher", True),
        (93.59, "higher", False),
        (93.7, "lower", False),
        (93.6, "lower", True),
        (None, "lower", False),
        (float("nan"), "lower", False),
    ],
)
def test_a_bar_passes_or_is_short(tmp_path, capsys, figure, better, passes):
    write(tmp_path, figure=figure, better=better)
    assert main([str(tmp_path)]) == (0 if passes else 1)
    out = capsys.readouterr().out
    assert ("SHORT" in out) is not passes
    assert f"{int(passes)} of 1 bars passed" in out


def test_files_without_bars_are_left_alone(tmp_path, capsys):
    (tmp_path / "speed.json").write_text('{"seconds": 3}')
    (tmp_path / "list.json").write_text("[1, 2]")
    assert main([str(tmp_path)]) == 0
    assert "no bars" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["{", '{"bars": [{"bar": "x"}]}', '{"bars": 3}'])
def test_a_broken_file_is_named(tmp_path, capsys, text):
    (tmp_path / "odd.json").write_text(text)
    assert main([str(tmp_path)]) == 2
    assert "odd.json" in capsys.readouterr().err


def test_our_own_results_can_be_read():
    assert isinstance(read_bars(RESULTS), list)
