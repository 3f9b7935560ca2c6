"""Answers, errors and exit statuses; the real process where signals and pipes are concerned."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tunewright.cli.output import Answer, run_command
from tunewright.errors import (
    DataError,
    DiskFull,
    Interrupted,
    RecipeError,
    Refusal,
    TunewrightError,
    UserError,
)


def raising(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (RecipeError("r.yaml:3: x is 1; make it 2"), 2, "RecipeError"),
        (DataError("d.csv:9: no label"), 2, "DataError"),
        (UserError("--x: y"), 2, "UserError"),
        (Refusal("will not fit"), 1, "Refusal"),
        (MemoryError(), 1, "Refusal"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "Refusal"),
        (Interrupted("saved"), 3, "Interrupted"),
        (DiskFull("d: no space"), 3, "DiskFull"),
        (KeyboardInterrupt(), 3, "Interrupted"),
        (TunewrightError("bare"), 4, "Fault"),
        (ZeroDivisionError("division\nby zero"), 4, "Fault"),
    ],
)
def test_errors_end_in_one_line_and_their_status(error, status, kind, capsys):
    assert run_command(raising(error), as_json=False) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err

    assert run_command(raising(error), as_json=True) == status
    problem = json.loads(capsys.readouterr().out)["error"]
    assert (problem["kind"], problem["exit_status"]) == (kind, status)
    assert problem["message"]


def test_a_fault_leaves_its_traceback_in_a_file(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run_command(raising(ZeroDivisionError("oops")), as_json=False) == 4
    (log,) = tmp_path.iterdir()
    assert str(log) in capsys.readouterr().err
    assert "Traceback" in log.read_text()
    assert "ZeroDivisionError: oops" in log.read_text()


def test_a_fault_is_told_even_when_no_file_can_be_written(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    assert run_command(raising(ZeroDivisionError("oops")), as_json=False) == 4
    assert "TUNEWRIGHT_DEBUG=1" in capsys.readouterr().err


def test_debug_shows_the_traceback(capsys, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_DEBUG", "1")
    assert run_command(raising(RecipeError("r.yaml: x")), as_json=True) == 2
    out, err = capsys.readouterr()
    assert "Traceback" in err
    assert json.loads(out)["error"]["message"] == "r.yaml: x"


def test_json_is_the_only_thing_on_stdout(capsys):
    def command():
        print("a chatty library")
        return Answer({"word": "Zürich ✓", "number": float("nan")}, lambda console: None)

    assert run_command(command, as_json=True) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"word": "Zürich ✓", "number": None}
    assert err == "a chatty library\n"


def test_an_answer_carries_its_exit_status(capsys):
    answer = Answer({"ok": False}, lambda console: console.print("no"), exit_status=1)
    assert run_command(lambda: answer, as_json=False) == 1
    assert capsys.readouterr().out == "no\n"


def test_an_error_while_showing_is_an_error():
    def show(console):
        raise RecipeError("page.html: missing")

    assert run_command(lambda: Answer({}, show), as_json=False) == 2


def start(code, **options):
    code = f"import sys\nfrom tunewright.cli.output import Answer, run_command\n{code}"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen([sys.executable, "-c", code], **pipes)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_in_three(number):
    process = start(
        "def work():\n"
        "    import time\n"
        "    print('at work', file=sys.stderr, flush=True)\n"
        "    time.sleep(60)\n"
        "sys.exit(run_command(work, as_json=True))"
    )
    assert process.stderr.readline() == "at work\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 3
    assert json.loads(out)["error"]["kind"] == "Interrupted"
    assert err == f"error: stopped by {number.name}\n"


def test_a_reader_that_leaves_early_is_no_error():
    process = start(
        "answer = Answer({'rows': ['x' * 1000] * 5000}, lambda console: None)\n"
        "sys.exit(run_command(lambda: answer, as_json=True))"
    )
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=30) == 0


def test_work_whose_log_reader_left_is_not_called_done():
    process = start(
        "def work():\n"
        "    import time\n"
        "    from tunewright.journal import ConsoleJournal\n"
        "    while True:\n"
        "        ConsoleJournal().say('x' * 1000)\n"
        "        raise BrokenPipeError\n"
        "sys.exit(run_command(work, as_json=False))"
    )
    process.stderr.close()
    time.sleep(0.1)
    assert process.stdout.read() == ""
    assert process.wait(timeout=30) == 3


def test_a_terminal_without_unicode_gets_whole_json():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    process = start(
        "answer = Answer({'word': 'Zürich 🚀'}, lambda console: None)\n"
        "sys.exit(run_command(lambda: answer, as_json=True))",
        env=environment,
    )
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert json.loads(out) == {"word": "Zürich 🚀"}
