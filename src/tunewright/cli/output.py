"""What every command shares: its answer, its errors, its exit status.

A command returns an Answer; `run_command` shows it, for people or as one JSON document. It is the
only place that turns an exception into words and an exit status:

    0  done
    1  the answer is "no": unfit data, will not fit, gate closed
    2  the user's mistake: one line with place, value and remedy
    3  interrupted, and resumable
    4  our own fault: the traceback goes to a file, never to the screen

Answers go to stdout, everything else to stderr.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import typer

from tunewright.errors import Interrupted, Refusal, TunewrightError

if TYPE_CHECKING:
    from rich.console import Console

CTRL_C = 130  # the status that typer makes of a KeyboardInterrupt that reaches it
DEBUG = "TUNEWRIGHT_DEBUG"


class Stopped(KeyboardInterrupt):
    """A stop signal outside the training loop. Not an Exception: nobody may swallow it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command has to say.

    document: what --json prints; anything that store.to_plain knows.
    show: writes the same for a person on the console that it is given.
    """

    document: Any
    show: Callable[[Console], None]
    exit_status: int = 0


def run_command(command: Callable[[], Any], *, as_json: bool) -> int:
    """Run `command`, show its Answer or its error, and give the exit status. Never raises.

    With as_json, stdout leads to stderr while it runs: libraries print what they like.
    A number instead of an Answer is typer's: the status of --help, --version or completion, whose
    text is the answer and was printed on the way.
    """
    _be_lenient_about_encodings()
    with _signals_as_interruptions():
        try:
            with redirect_stdout(sys.stderr) if as_json else nullcontext():
                answer = command()
            if answer == CTRL_C:
                raise Stopped("stopped by a signal")
            if not isinstance(answer, Answer):
                answer = Answer(None, lambda console: None, exit_status=int(answer or 0))
                as_json = False
            _show(answer, as_json=as_json)
            return answer.exit_status
        except BaseException as error:  # the border: whatever it is, it must end in words
            return _show_error(error, as_json=as_json)


def make_console() -> Console:
    """A console on stdout; colours only for a terminal, and none under NO_COLOR."""
    from rich.console import Console

    return Console(highlight=False)


def _show(answer: Answer, *, as_json: bool) -> None:
    """Print an answer; a reader that goes away meanwhile has seen enough."""
    try:
        if as_json:
            _print_json(answer.document)
        else:
            answer.show(make_console())
        sys.stdout.flush()
    except (OSError, SystemExit) as error:
        if not _reader_left(error):
            raise
        _close(sys.stdout)


def _print_json(document: Any) -> None:
    from tunewright.store import to_plain

    # Where stdout is not UTF-8, escapes keep the document whole.
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(json.dumps(to_plain(document), indent=2, ensure_ascii=not is_utf8))


def _show_error(error: BaseException, *, as_json: bool) -> int:
    if _reader_left(error):  # nobody is left to talk to, and the work is not done
        _close(sys.stdout)
        _close(sys.stderr)
        return Interrupted.exit_status
    kind, message, exit_status = describe_error(error)
    try:
        print(f"error: {message}", file=sys.stderr)
        if os.environ.get(DEBUG) == "1":
            traceback.print_exception(error)
        sys.stderr.flush()
    except OSError:
        _close(sys.stderr)
    if as_json:
        problem = {"kind": kind, "message": message, "exit_status": exit_status}
        _show(Answer({"error": problem}, lambda console: None), as_json=True)
    return exit_status


def describe_error(error: BaseException) -> tuple[str, str, int]:
    """(kind, one line, exit status) of anything that can be raised."""
    kind = type(error).__name__
    if isinstance(error, TunewrightError) and type(error) is not TunewrightError:
        return kind, _one_line(str(error)), error.exit_status
    if isinstance(error, typer.TyperException):
        return "UsageError", _usage_line(error), 2
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return "Interrupted", str(error) or "stopped by Ctrl-C", Interrupted.exit_status
    if isinstance(error, SystemExit):  # a library that ends the process
        status = error.code if isinstance(error.code, int) else 4
        return kind, "a library ended the program", status
    if _is_out_of_memory(error):
        remedy = "lower training.max_batch_tokens or training.max_length, or take a smaller base"
        return "Refusal", f"out of memory; {remedy}", Refusal.exit_status
    return "Fault", _fault_line(error), TunewrightError.exit_status


def _usage_line(error: typer.TyperException) -> str:
    message = _one_line(error.format_message()).rstrip(".")
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "tunewright"
    return f"{message[0].lower()}{message[1:]}; see `{command} --help`"


def _is_out_of_memory(error: BaseException) -> bool:
    """True for Python's, CUDA's and the CPU allocator's way of saying so; told without torch."""
    named = type(error).__name__ in ("MemoryError", "OutOfMemoryError")
    return named or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error))


def _fault_line(error: BaseException) -> str:
    what = f"{type(error).__name__}: {_one_line(str(error))}"[:200]
    text = "".join(traceback.format_exception(error))
    try:
        handle, path = tempfile.mkstemp(prefix="tunewright-fault-", suffix=".log")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError:
        return f"our own fault, not yours ({what}); {DEBUG}=1 shows where it happened"
    return f"our own fault, not yours ({what}); please report it with {path}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


@contextmanager
def _signals_as_interruptions() -> Iterator[None]:
    """Raise Stopped on Ctrl-C and SIGTERM, unless a training loop has handlers of its own."""
    before: dict[signal.Signals, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, _interrupt)
    except ValueError:  # not the main thread: signals arrive elsewhere
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise Stopped(f"stopped by {signal.Signals(number).name}")


def _be_lenient_about_encodings() -> None:
    """Let no character that the terminal lacks, and no odd file name, break an answer."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _reader_left(error: BaseException) -> bool:
    """True for a broken pipe, also as the SystemExit that rich and typer make of one."""
    cause = error.__context__ if isinstance(error, SystemExit) else error
    return isinstance(cause, BrokenPipeError)


def _close(stream: TextIO) -> None:
    """Lead a stream without a reader to nowhere, so that the flush at exit does not complain."""
    try:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, stream.fileno())
        os.close(devnull)
    except (OSError, ValueError):
        pass
