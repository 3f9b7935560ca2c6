"""`tunewright chat`: talk to a model on the terminal, or classify what is typed."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from tunewright.cli.options import AsJson
from tunewright.cli.output import Answer
from tunewright.errors import UserError

HELP = "/reset forgets the conversation, /exit (or Ctrl-D) ends, /help shows this"


def chat(
    what: Annotated[
        str, typer.Argument(help="A run folder, adapter folder, model folder, or hub model.")
    ],
    message: Annotated[
        str | None,
        typer.Option("--message", "-m", metavar="TEXT", help="Ask once, print the answer, end."),
    ] = None,
    as_json: AsJson = False,
) -> Answer:
    """Talk to a model; a classifier answers with label and confidence.

    Example:
      tunewright chat runs/first
      tunewright chat runs/first --message "where is my parcel?"

    Exit status:
      0 done
      2 the model cannot be used
      4 our own fault
    """
    if as_json and message is None:
        raise UserError("chat --json: no message; add --message TEXT")
    if message is not None and not message.strip():
        raise UserError("--message: empty; write what to ask")

    from tunewright.asking import open_chat
    from tunewright.report.text import clean_text

    session = open_chat(what)
    if message is None:
        return _converse(session)
    reply = "".join(session.reply(message))
    document = {"message": message, "reply": reply, **_last_answer(session)}
    return Answer(document, lambda console: print(clean_text(reply)))


def _last_answer(session: Any) -> dict[str, Any]:
    """Label and confidence of the last reply, where the model is one that gives them."""
    last = getattr(session, "last", None)
    return {} if last is None else {"answer": last}


def _converse(session: Any) -> Answer:
    """Read lines until /exit, end of input or Ctrl-C; print replies as they come.

    Ctrl-C during a reply stops that reply only.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.stdin.isatty():
        print(f"({HELP})", file=sys.stderr)
        import readline  # noqa: F401 - gives input() its line editing and history
    count = 0
    for line in _lines():
        if line == "/exit":
            break
        if line == "/help":
            print(HELP, file=sys.stderr)
        elif line == "/reset":
            session.reset()
            print("(forgotten)", file=sys.stderr)
        elif line.startswith("/"):
            print(f"{line.split()[0]}: unknown; {HELP}", file=sys.stderr)
        elif line:
            _print_reply(session.reply(line))
            count += 1
    return Answer({"messages": count}, lambda console: None)


def _lines() -> Iterator[str]:
    """Lines that were typed or piped, stripped, until the input ends."""
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt)
        except (EOFError, KeyboardInterrupt):
            return
        yield line.strip()


def _print_reply(pieces: Iterator[str]) -> None:
    """Print a reply as it comes, without what could steer the terminal."""
    from tunewright.report.text import clean_text

    try:
        for piece in pieces:
            print(clean_text(piece), end="", flush=True)
        print(flush=True)
    except KeyboardInterrupt:
        print(" (stopped)", flush=True)
