"""The command in its shell: completion, colours, and what it says where nothing is yet."""

import os
import pty
import subprocess
import sys

import pytest

MAIN = "from tunewright.cli.main import main; main()"


def complete(line, shell="bash"):
    """What the shell would offer after this line."""
    words = {
        "_TUNEWRIGHT_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - (not line.endswith(" "))),
        "_TYPER_COMPLETE_ARGS": line,
    }
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv[0] = 'tunewright'; " + MAIN],
        env=os.environ | words, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize(
    ("line", "offered"),
    [("tunewright qu", "quickstart"), ("tunewright release pro", "promote"),
     ("tunewright train --res", "--resume")],
)  # fmt: skip
def test_the_shell_completes_commands_and_options(line, offered):
    assert offered in complete(line)
    assert offered in complete(line, "zsh")


def test_completion_is_printed_for_the_asked_shell(tunewright):
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "--show-completion", "bash"],
        # Else the shell that runs the tests is asked for, and there may be none.
        env=os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "complete" in done.stdout


def on_a_terminal(words, folder, **variables):
    """stdout of a command whose stdout is a terminal."""
    ours, theirs = pty.openpty()
    surroundings = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *words], cwd=folder, stdout=theirs,
        stderr=subprocess.DEVNULL, env=surroundings | {"TERM": "xterm-256color"} | variables,
    )  # fmt: skip
    os.close(theirs)
    text = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # Linux's way of saying that the other end is closed
            break
        if not part:
            break
        text += part
    os.close(ours)
    process.wait(timeout=60)
    return text.decode()


def test_colours_for_a_terminal_and_none_under_no_color(tmp_path):
    words = ["doctor"]
    coloured = on_a_terminal(words, tmp_path)
    plain = on_a_terminal(words, tmp_path, NO_COLOR="1")
    assert "\x1b[3" in coloured or "\x1b[1;3" in coloured
    assert not [code for code in ("\x1b[3", "\x1b[1;3", "\x1b[9") if code in plain]
    assert "memory" in plain.lower() and "memory" in coloured.lower()


@pytest.mark.parametrize(
    ("words", "next_step"),
    [
        (["runs"], "tunewright quickstart"),
        (["jobs", "list"], "tunewright jobs submit"),
        (["release", "list"], "tunewright release promote"),
        (["keys", "list"], "tunewright keys create"),
    ],
)
def test_an_empty_folder_is_told_the_next_step(tunewright, tmp_path, monkeypatch, words, next_step):
    monkeypatch.chdir(tmp_path)
    ended = tunewright(*words)
    assert ended.status == 0
    assert next_step in ended.out
    assert ended.out.count("\n") == 1
    assert tunewright(*words, "--json").status == 0
