"""`tunewright jobs`: fine-tuning jobs of a server's folder, without HTTP."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunewright.cli.options import AsJson, Server, open_server
from tunewright.cli.output import Answer
from tunewright.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from tunewright.jobs.paging import Record

COLOURS = {"succeeded": "green", "failed": "red", "running": "cyan", "cancelled": "yellow"}
Job = Annotated[str, typer.Argument(metavar="JOB", help="An id, as `jobs list` shows it.")]
SHOWN = (
    "id", "status", "model", "base_model", "fine_tuned_model", "training_file", "validation_file",
    "method", "hyperparameters", "seed", "metadata", "priority", "created_at", "started_at",
    "finished_at", "estimated_finish", "trained_tokens", "total_steps", "last_step", "attempts",
    "waits_for", "error", "forecast", "outcome", "result_files",
)  # fmt: skip


def list_(
    status: Annotated[
        str | None, typer.Option(help="Only those: queued, running, succeeded, failed ...")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    server: Server = None,
    as_json: AsJson = False,
) -> Answer:
    """List jobs, the newest first: state, progress, model, when.

    Example:
      tunewright jobs list
      tunewright jobs list --status running --json

    Exit status:
      0 done
      2 the server's database cannot be opened
      4 our own fault
    """
    from tunewright.jobs.board import list_jobs

    with closing(open_server(server)) as database:
        page = list_jobs(database, statuses=[status] if status else (), limit=limit)

    def show(console: Console) -> None:
        if page.rows:
            _print_table(page.rows, console)
        else:
            console.print("No jobs; start with: tunewright jobs submit rows.jsonl --base BASE",
                          markup=False)  # fmt: skip

    return Answer({"jobs": [_plain(row) for row in page.rows], "has_more": page.has_more}, show)


def show(
    job: Job,
    events: Annotated[int, typer.Option(min=0, max=1000, help="How many of the last.")] = 20,
    server: Server = None,
    as_json: AsJson = False,
) -> Answer:
    """Show one job: its state, forecast, verdict and last events.

    Example:
      tunewright jobs show ftjob-aB3dE5

    Exit status:
      0 done
      2 there is no such job
      4 our own fault
    """
    from tunewright.jobs.board import get_job, list_checkpoints, list_events

    with closing(open_server(server)) as database:
        row = _found(job, get_job, database, job)
        last = list_events(database, job, limit=events).rows[::-1] if events else ()
        kept = list_checkpoints(database, job, limit=100).rows

    def tell(console: Console) -> None:
        for key, value in _plain(row).items():
            if value not in (None, [], {}) and key not in ("outcome", "forecast"):
                console.print(f"{key}: {value}", markup=False, highlight=False)
        verdict = (row["outcome"] or {}).get("verdict")
        if verdict:
            because = " ".join(row["outcome"].get("because") or ())
            console.print(f"verdict: {verdict}. {because}", markup=False)
        for event in last:
            at = time.strftime("%H:%M:%S", time.localtime(event["created_at"]))
            console.print(f"{at} {event['level']} {event['message']}", markup=False)

    checkpoints = [{key: c[key] for key in ("id", "model", "step", "metrics")} for c in kept]
    document = {**_plain(row), "events": [_event(e) for e in last], "checkpoints": checkpoints}
    return Answer(document, tell)


def cancel(job: Job, server: Server = None, as_json: AsJson = False) -> Answer:
    """End a job; its process is gone within seconds.

    Example:
      tunewright jobs cancel ftjob-aB3dE5

    Exit status:
      0 done
      2 there is no such job, or it has ended already
      4 our own fault
    """
    from tunewright.jobs.board import cancel_job

    return _change(job, server, cancel_job)


def pause(job: Job, server: Server = None, as_json: AsJson = False) -> Answer:
    """Stop a job at a checkpoint, until `jobs resume`.

    Example:
      tunewright jobs pause ftjob-aB3dE5

    Exit status:
      0 done
      2 there is no such job, or it is not queued or running
      4 our own fault
    """
    from tunewright.jobs.board import pause_job

    return _change(job, server, pause_job)


def resume(job: Job, server: Server = None, as_json: AsJson = False) -> Answer:
    """Go on with a paused job.

    Example:
      tunewright jobs resume ftjob-aB3dE5

    Exit status:
      0 done
      2 there is no such job, or it is not paused
      4 our own fault
    """
    from tunewright.jobs.board import resume_job

    return _change(job, server, resume_job)


def submit(
    data: Annotated[Path, typer.Argument(help="Rows as JSONL: chat, preferences or completions.")],
    base: Annotated[str, typer.Option(help="A causal base: folder, hub id, or a known name.")],
    method: Annotated[str, typer.Option(metavar="supervised|dpo")] = "supervised",
    validation: Annotated[Path | None, typer.Option(help="Rows to judge by.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, max=50)] = None,
    seed: Annotated[int, typer.Option(min=0)] = 17,
    suffix: Annotated[str | None, typer.Option(help="Stands in the tuned model's name.")] = None,
    priority: Annotated[int, typer.Option(min=-100, max=100, help="Higher goes first.")] = 0,
    server: Server = None,
    as_json: AsJson = False,
) -> Answer:
    """Queue a job; the server's worker, or `jobs work`, trains it.

    Example:
      tunewright jobs submit rows.jsonl --base models/my-llama
      tunewright jobs submit pairs.jsonl --base "ft:my-llama:local::aB3dE5fG" --method dpo

    Exit status:
      0 queued
      2 a mistake in the file or the options
      4 our own fault
    """
    from tunewright.jobs.board import Wish, add_job, get_job
    from tunewright.jobs.home import open_home

    if method not in ("supervised", "dpo"):
        raise UserError(f"--method {method}: unknown; supervised or dpo")
    home = open_home(server)
    with closing(home.database):
        local = base if base.startswith("ft:") else home.settings.base_of(base) or base
        if Path(local).expanduser().is_dir():
            local = str(Path(local).expanduser().resolve())
        wish = Wish(
            model=base if base.startswith("ft:") else Path(base).name,
            base_model=local,
            training_file=_take_in(home, data),
            validation_file=None if validation is None else _take_in(home, validation),
            method=method,
            hyperparameters={"n_epochs": "auto" if epochs is None else epochs},
            suffix=suffix,
            seed=seed,
            metadata=None,
            integrations=None,
            organization=home.settings.organization,
            priority=priority,
        )
        with home.database.writing() as connection:
            job_id = add_job(connection, wish)
        row = get_job(home.database, job_id)
    return Answer(_plain(row), lambda console: console.print(f"{job_id}: queued", markup=False))


def work(server: Server = None, as_json: AsJson = False) -> Answer:
    """Train the jobs of a server's folder until stopped: a worker of its own, on this machine.

    Example:
      tunewright jobs work --server /shared/server

    Exit status:
      0 stopped by Ctrl-C or SIGTERM; jobs were saved and given back
      2 the server's folder or database cannot be opened
      4 our own fault
    """
    import signal
    import threading

    from tunewright.jobs.work import work as work_until
    from tunewright.settings import server_folder

    stopped = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: stopped.set())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        work_until(server_folder(server).path, stopped)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return Answer({"stopped": True}, lambda console: None)


def _take_in(home: Any, path: Path) -> str:
    from tunewright.jobs.files import Incoming, add_file
    from tunewright.jobs.rows import check_rows

    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path")
    checked = check_rows(path)
    if checked.fault:
        raise UserError(f"{path}: {checked.fault}")
    with Incoming(home.folder, path.stat().st_size) as incoming, open(path, "rb") as file:
        while piece := file.read(1 << 22):
            incoming.write(piece)
        row = add_file(
            home.database, home.folder, incoming, filename=path.name, purpose="fine-tune"
        )
    return str(row["id"])


def _change(job: str, server: Path | None, change: Any) -> Answer:
    from tunewright.jobs.board import WrongStateError

    with closing(open_server(server)) as database:
        try:
            row = _found(job, change, database, job)
        except WrongStateError as error:
            raise UserError(str(error)) from None
    return Answer(_plain(row), lambda c: c.print(f"{job}: {row['status']}", markup=False))


def _found(job: str, call: Any, *args: Any) -> Record:
    try:
        row: Record = call(*args)
    except KeyError:
        raise UserError(f"{job}: no such job; `tunewright jobs list` shows them") from None
    return row


def _plain(row: Record) -> dict[str, Any]:
    return {key: row[key] for key in SHOWN}


def _event(row: Record) -> dict[str, Any]:
    return {key: row[key] for key in ("id", "created_at", "level", "message", "data")}


def _print_table(rows: Any, console: Console) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("job", "state", "step", "model", "when"):
        table.add_column(name, overflow="fold")
    for row in rows:
        colour = COLOURS.get(row["status"], "default")
        total = row["total_steps"]
        state = row["status"] + (f" ({row['waits_for']})" if row["waits_for"] else "")
        table.add_row(
            row["id"],
            f"[{colour}]{state}[/]",
            f"{row['last_step']}/{total}" if total else "",
            row["fine_tuned_model"] or row["model"],
            time.strftime("%Y-%m-%d %H:%M", time.localtime(row["created_at"])),
        )
    console.print(table)


def make_group() -> typer.Typer:
    """`jobs` with its subcommands."""
    made = typer.Typer(help="Fine-tuning jobs of a server's folder.", no_args_is_help=True)
    for command in (list_, show, cancel, pause, resume, submit, work):
        made.command(command.__name__.rstrip("_"))(command)
    return made
