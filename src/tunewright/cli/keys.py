"""`tunewright keys`: who may ask a server, and for what."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunewright.cli.options import AsJson, Server, open_server, split_names
from tunewright.cli.output import Answer

if TYPE_CHECKING:
    from rich.console import Console


def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is for.")],
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", help="read, infer, tune, admin; repeatable. Default: read,infer."),
    ] = None,
    project: Annotated[
        str, typer.Option("--project", help="Sees the files, jobs and models of this project only.")
    ] = "",
    expires_in_days: Annotated[
        float | None, typer.Option("--days", min=0.001, help="Refused after so many days.")
    ] = None,
    quota: Annotated[
        list[str] | None,
        typer.Option("--quota", help="A limit of its own: NAME=VALUE, as open_jobs=2; repeatable."),
    ] = None,
    server: Server = None,
    as_json: AsJson = False,
) -> Answer:
    """Make a key and print it, once: only its hash is kept.

    As soon as a server has a key it asks for one, on loopback too.

    Example:
      tunewright keys create my-app --scope infer --quota tokens_per_minute=20000
      tunewright keys create me --scope admin --json

    Exit status:
      0 done
      2 an unknown scope or limit
      4 our own fault
    """
    from tunewright.access import create_key

    scopes = split_names(scope) or ("read", "infer")
    with closing(open_server(server)) as database:
        key, kept = create_key(
            database, name, scopes, owner=project, expires_in_days=expires_in_days,
            quota=_limits(quota),
        )  # fmt: skip

    def show(console: Console) -> None:
        console.print(key, markup=False, soft_wrap=True)

    return Answer({"key": key, **kept}, show)


def _limits(given: list[str] | None) -> dict[str, str]:
    """Limits by name. Raises UserError."""
    from tunewright.errors import UserError

    pairs = {}
    for text in given or ():
        name, mark, value = text.partition("=")
        if not mark:
            raise UserError(f"--quota {text}: give NAME=VALUE, such as open_jobs=2")
        pairs[name.strip()] = value.strip()
    return pairs


def list_(server: Server = None, as_json: AsJson = False) -> Answer:
    """List keys: id, name, scopes, state. The keys themselves are not kept.

    Example:
      tunewright keys list

    Exit status:
      0 done
      2 the server's database cannot be opened
      4 our own fault
    """
    from tunewright.access import list_keys

    with closing(open_server(server)) as database:
        found = list_keys(database)

    def show(console: Console) -> None:
        if found:
            _print_table(found, console)
        else:
            console.print("No keys; make one with: tunewright keys create NAME", markup=False)

    return Answer({"keys": found}, show)


def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `keys list` shows it.")],
    server: Server = None,
    as_json: AsJson = False,
) -> Answer:
    """Refuse a key from now on; running servers hear of it within two seconds.

    Example:
      tunewright keys revoke key-0123456789abcdef

    Exit status:
      0 done
      2 no such key in force
      4 our own fault
    """
    from tunewright.access import revoke_key

    with closing(open_server(server)) as database:
        revoke_key(database, key_id)
    return Answer({"revoked": key_id}, lambda console: console.print(f"{key_id} is refused now"))


def make_group() -> typer.Typer:
    """The group of commands."""
    group = typer.Typer(help="API keys of a server: create, list, revoke.", no_args_is_help=True)
    for command in (create, list_, revoke):
        group.command(command.__name__.rstrip("_"))(command)
    return group


def _print_table(found: list[dict[str, Any]], console: Console) -> None:
    import time

    from rich.table import Table

    if not found:
        console.print("No keys; a server on loopback answers everybody on this machine.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("id", "name", "scopes", "project", "ends in", "state"):
        table.add_column(column)
    for key in found:
        ended = key["expires_at"] is not None and key["expires_at"] <= time.time()
        state = "revoked" if key["revoked_at"] else "expired" if ended else "in force"
        table.add_row(
            key["id"], key["name"], ", ".join(key["scopes"]), key["owner"], f"…{key['ending']}",
            state,
        )  # fmt: skip
    console.print(table)
