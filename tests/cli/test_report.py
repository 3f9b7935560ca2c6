"""`report` and `compare`'s lines, on a run folder that the real writer wrote."""

import json

import pytest
from tests.test_registry import REPORT

from tunewright.cli.compare import _print_comparison
from tunewright.cli.output import make_console
from tunewright.figures import show_delta
from tunewright.report.files import make_report_json
from tunewright.store import RunFolder, write_atomic, write_json


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "first")
    folder.path.mkdir(parents=True)
    write_atomic(folder.recipe, "task: classify\n")
    write_json(folder.report_json, make_report_json(REPORT))
    write_atomic(folder.report_md, "# A report ✓\n")
    return folder


def test_report_on_the_terminal(tunewright, run):
    ended = tunewright("report", run.path)
    assert ended.status == 0
    assert "SHIP" in ended.out
    assert "report.html" in ended.out


def test_report_as_file_content(tunewright, run):
    assert tunewright("report", run.path, "--format", "md").out == "# A report ✓\n"
    assert json.loads(tunewright("report", run.path, "--format", "json").out)["verdict"] == "ship"
    assert tunewright("report", run.path, "--json").document["verdict"] == "ship"


def test_a_missing_page_is_said(tunewright, run):
    for words in (["--format", "html"], ["--open"]):
        ended = tunewright("report", run.path, *words)
        assert ended.status == 2
        assert "report.html: missing" in ended.err


def test_an_unfinished_run_has_no_report(tunewright, run):
    run.report_json.unlink()
    ended = tunewright("report", run.path)
    assert ended.status == 2
    assert "--resume" in ended.err


def test_a_broken_report_is_the_files_fault(tunewright, run):
    run.report_json.write_text('{"verdict":')
    ended = tunewright("report", run.path)
    assert ended.status == 2
    assert "not valid JSON" in ended.err


def test_a_comparison_says_who_is_better(capsys):
    _print_comparison(REPORT.comparisons[0], make_console())
    out = capsys.readouterr().out
    assert "tuned against base: better" in out
    assert show_delta("macro_f1", 0.4) in out
    assert "100 rows" in out
