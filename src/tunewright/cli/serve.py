"""`tunewright serve`: tuned models behind OpenAI's API, on one's own machine."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunewright.cli.options import AsJson, Server
from tunewright.cli.output import Answer
from tunewright.errors import UserError

if TYPE_CHECKING:
    import socket

    from tunewright.api.guard import App
    from tunewright.settings import ServerFolder

SHUTDOWN_S = 5
"""What streams get to end by themselves."""
KEY = "TUNEWRIGHT_API_KEY"


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Run folders, model folders or hub ids; default: all of runs/.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 8000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A further Host that requests may name; repeatable."),
    ] = None,
    deadline_s: Annotated[
        float, typer.Option(min=1, help="The longest that an answer may take.")
    ] = 600.0,
    max_waiting: Annotated[
        int, typer.Option(min=1, help="Requests that may wait; one more is answered 429.")
    ] = 256,
    max_adapters: Annotated[
        int, typer.Option(min=1, help="LoRA adapters in memory beside one base.")
    ] = 64,
    engine: Annotated[
        str, typer.Option(metavar="here|vllm", help="What computes text answers.")
    ] = "here",
    base: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=BASE",
            help="A local base behind a name that clients tune, gpt-4o-mini*=DIR; repeatable.",
        ),
    ] = None,
    worker: Annotated[
        bool, typer.Option("--worker/--no-worker", help="Also train the jobs that come in.")
    ] = True,
    capture: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep traffic here, redacted, for `watch --log`."),
    ] = None,
    server: Server = None,
    as_json: AsJson = False,
) -> Answer:
    """Answer chat, completion, embedding and classification requests as OpenAI's API does.

    Also takes files and fine-tuning jobs and trains them (docs/tuning-api.md). Adapters of one base
    share it in memory and are mixed in one batch. The same address shows a dashboard in a browser.
    Listens on loopback; for other addresses make a key first (tunewright keys create, or
    TUNEWRIGHT_API_KEY), which clients then send as their API key.

    Example:
      tunewright serve runs/tickets
      tunewright serve --base "gpt-4o-mini*=models/my-llama"
      OPENAI_BASE_URL=http://127.0.0.1:8000/v1 python my_client.py

    Exit status:
      0 stopped by Ctrl-C
      2 a model cannot be served, or the port is taken
      4 our own fault
    """
    # Long because options and their help stand in the signature.
    from tunewright.access import KeyRing
    from tunewright.api.guard import LOOPBACK, check_binding
    from tunewright.jobs.home import open_home

    keys = [key for key in os.environ.get(KEY, "").split(",") if key]
    home = open_home(server, _bases(base))
    database = home.database
    check_binding(host, KeyRing(keys, database))
    _check_engine(engine)
    sources = list(models or _runs_here())
    from tunewright.hosting import Hosting, bases_of, find_served

    found = find_served(sources)
    known = {model.id for model in found}
    hosting = Hosting(
        [*found, *(base for base in bases_of(found) if base.id not in known)],
        max_waiting=max_waiting,
        max_adapters=max_adapters,
        engine="vllm" if engine == "vllm" else "here",
    )
    listener, address = _listen(host, port)
    print(f"serving {', '.join(hosting.models) or 'no model yet'}", file=sys.stderr)
    print(f"dashboard: {address}/", file=sys.stderr)
    print(f"OPENAI_BASE_URL={address}/v1", file=sys.stderr, flush=True)
    from tunewright.api.app import make_app
    from tunewright.serve.capture import Capture

    app = make_app(
        hosting, keys=keys, hosts={*LOOPBACK, host, *(allow_host or ())}, deadline_s=deadline_s,
        database=database, runs=_folders_of_runs(sources), home=home,
        capture=Capture(capture) if capture else None,
    )  # fmt: skip
    _run(app, listener, home.folder if worker else None)
    return Answer({"stopped": True, "address": f"{address}/v1"}, lambda console: None)


def _run(app: App, listener: socket.socket, works_in: ServerFolder | None) -> None:
    """Answer until stopped; works_in: where a worker of the server's own trains jobs."""
    import uvicorn

    from tunewright.jobs.work import keep_worker

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )  # fmt: skip
    with keep_worker(works_in) if works_in else nullcontext():
        uvicorn.Server(config).run(sockets=[listener])


def _bases(given: list[str] | None) -> dict[str, str]:
    """Names to local bases. Raises UserError."""
    pairs = {}
    for text in given or ():
        name, mark, base = text.partition("=")
        if not (name and mark and base):
            raise UserError(f"--base {text}: give NAME=BASE, such as gpt-4o-mini*=models/llama")
        path = Path(base).expanduser()
        pairs[name] = str(path.resolve()) if path.exists() else base
    return pairs


def _check_engine(engine: str) -> None:
    if engine not in ("here", "vllm"):
        raise UserError(f"--engine {engine}: unknown; here or vllm")
    if engine == "vllm":
        from tunewright.serve.vllm import check_vllm

        check_vllm()


def _listen(host: str, port: int) -> tuple[socket.socket, str]:
    """A socket that listens there, and its address for clients. Raises UserError."""
    import socket

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the protocol is named; with it, the body of
    # each answer on a kept connection waits 40 ms for the client to acknowledge the head.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)  # who is told the address now is answered once all is loaded
    except OSError as error:
        raise UserError(
            f"--host {host} --port {port}: cannot listen there ({error.strerror}); give another "
            "--port"
        ) from None
    shown = f"[{host}]" if ":" in host else host
    return listener, f"http://{shown}:{listener.getsockname()[1]}"


def _folders_of_runs(sources: list[str]) -> list[Path]:
    """Where the dashboard looks for runs: runs/ here, and beside the runs that were named."""
    beside = [Path(source).resolve().parent for source in sources if Path(source).is_dir()]
    return list(dict.fromkeys([Path("runs").resolve(), *beside]))


def _runs_here() -> list[str]:
    """Finished runs below runs/ that have a model."""
    root = Path("runs")
    if not root.is_dir():
        return []
    return sorted(str(path) for path in root.iterdir() if (path / "model").is_dir())
