"""Options and checks that several commands have in common."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunewright.errors import RunError

if TYPE_CHECKING:
    from tunewright.database.engine import Database

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document; logs go to stderr.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a recipe key, adapter.r=8; repeatable."
    ),
]
RunDir = Annotated[
    Path | None,
    typer.Option("--run-dir", metavar="DIR", help="Where the run is written; default below runs/."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run that lies in --run-dir.")]
PricesFile = Annotated[
    Path | None,
    typer.Option("--prices", metavar="FILE", help="Your own prices (YAML); they go before ours."),
]
Server = Annotated[
    Path | None,
    typer.Option(
        "--server", metavar="DIR", help="The server's folder; default TUNEWRIGHT_SERVER or server/."
    ),
]
Yes = Annotated[
    bool, typer.Option("--yes", "-y", help="Agree to what a hosted provider will cost.")
]
Gate = Annotated[bool, typer.Option("--gate", help="Exit 1 unless the verdict is `ship`.")]


def open_server(folder: Path | None) -> Database:
    """The database of the server in that folder, made where it is missing. Raises UserError."""
    from tunewright.database.engine import open_database, sqlite_url
    from tunewright.settings import read_settings, server_folder

    place = server_folder(folder)
    place.make()
    settings = read_settings(place)
    return open_database(settings.database or sqlite_url(place.database))


def split_names(values: list[str] | None) -> tuple[str, ...] | None:
    """Names from a repeatable option whose values may hold commas; None when it was not given."""
    if not values:
        return None
    names = (name.strip() for value in values for name in value.split(","))
    return tuple(name for name in names if name)


def existing_run(path: Path) -> Path:
    """The path, when it is a run folder. Raises RunError."""
    from tunewright.store import RunFolder

    if not path.exists():
        raise RunError(f"{path}: no such run folder; `tunewright runs` lists those below runs/")
    folder = RunFolder(path)
    if not path.is_dir() or not (folder.recipe.exists() or folder.report_json.exists()):
        raise RunError(f"{path}: not a run folder; give one that `tunewright train` wrote")
    return path


def check_is_file_like(source: str) -> str:
    """The source, unless it names a local file that is not there. Raises UserError.

    Hub ids, URLs and embedded names are left to the reader of data.
    """
    looks_local = source.startswith((".", "/", "~")) or Path(source).suffix != ""
    is_named = "://" in source or source.startswith("embedded:")
    if looks_local and not is_named and not Path(source).expanduser().exists():
        from tunewright.data.decode import explain_missing

        raise explain_missing(Path(source).expanduser())
    return source
