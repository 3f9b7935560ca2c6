"""Steps of a check that were done before, in a folder: a check that was stopped goes on there.

Kept are the rows as read and split, what each audit found, and what the cheap models reach, under
a digest of the data, the recipe's data section and our own code. Signatures and embeddings, the
longest steps, lie beside them chunk by chunk (data/audit/near.py, meaning.py). Of large data the
audits that look at each row alone are done by a process of its own, on the second core.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tunewright.cache import digest
from tunewright.config import Recipe, dump_recipe, parse_recipe
from tunewright.data.audit.table import ROW_BY_ROW
from tunewright.data.example_file import StoredExamples, write_examples
from tunewright.data.parts import goes_in_parts, prepare_in_parts
from tunewright.data.prepare import Prepared, prepare
from tunewright.journal import Journal
from tunewright.preparing import SIDES, load_prepared, name_content, save_all_but_rows
from tunewright.store import naming_disk_errors, to_plain, write_atomic


class Kept:
    """What a check of one recipe has done. Nothing is kept of data that cannot be named."""

    def __init__(self, folder: Path, recipe: Recipe, key: str | None) -> None:
        self.folder = folder
        self.recipe = recipe
        self.key = key
        self.beside: subprocess.Popen[str] | None = None
        with naming_disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def rows(self) -> Path:
        """Where the rows lie."""
        return self.folder / f"rows-{self.key}"

    def prepare(self, journal: Journal) -> Prepared:
        """The rows, read and split; from the folder where they lie there whole."""
        recipe = self.recipe
        if self.key is None:
            return prepare(recipe.data, recipe.task, journal)
        if (self.rows / "prepared.json").exists():
            journal.say(f"rows: as read before, from {self.rows}")
            return load_prepared(self.rows)
        aside = self.rows.with_suffix(".part")
        with naming_disk_errors(self.rows):
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            try:
                prepared = _read(recipe, journal, aside)
                if not isinstance(prepared.splits.train, StoredExamples):
                    for side in SIDES:
                        write_examples(aside / f"{side}.arrow", getattr(prepared.splits, side))
            except TypeError:  # a cell that JSON cannot hold
                shutil.rmtree(aside)
                return prepare(recipe.data, recipe.task, journal)
            save_all_but_rows(prepared, (), aside)
            del prepared  # its files are to be renamed
            os.replace(aside, self.rows)
        return load_prepared(self.rows)

    def keep(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` gives, as plain JSON values; made once."""
        if self.key is None:
            return to_plain(make())
        if self.beside is not None and name.removeprefix("audit-") in ROW_BY_ROW:
            self.beside.wait()  # where it failed, nothing lies there, and it is made here
        path = self.folder / f"{name}-{self.key}.json"
        try:
            return json.loads(path.read_bytes())
        except (OSError, ValueError):
            found = to_plain(make())
        write_atomic(path, json.dumps(found))
        return found

    @contextmanager
    def helped(self) -> Iterator[tuple[str, ...]]:
        """Let another process do the audits that look at each row alone; which, inside the block.

        Only of rows that lie in the folder, and where there is a second core.
        """
        if self.key is None or not self.rows.exists() or (os.cpu_count() or 1) < 2:
            yield ()
            return
        command = [sys.executable, "-m", "tunewright.kept", str(self.folder), self.key]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            text=True, encoding="utf-8",
        ) as self.beside:  # fmt: skip
            assert self.beside.stdin is not None
            self.beside.stdin.write(dump_recipe(self.recipe))
            self.beside.stdin.close()
            try:
                yield ROW_BY_ROW
            except BaseException:
                self.beside.terminate()
                raise


def name_check(recipe: Recipe) -> str | None:
    """What stands for all that a check of this recipe hangs on; None where it has no name."""
    content = name_content(recipe)
    return None if content is None else digest("check", content, recipe.training.seed)[:16]


@contextmanager
def keeping(recipe: Recipe, folder: Path | None) -> Iterator[Kept | None]:
    """Where steps are kept: in `folder`; for large data also without one, until the block ends."""
    if folder is not None:
        yield Kept(folder, recipe, name_check(recipe))
    elif goes_in_parts(recipe.data):
        with TemporaryDirectory(prefix="tunewright-check-") as place:
            yield Kept(Path(place), recipe, "once")
    else:
        yield None


def _read(recipe: Recipe, journal: Journal, folder: Path) -> Prepared:
    if goes_in_parts(recipe.data):
        journal.say("rows: many, so they are read part by part into files")
        return prepare_in_parts(recipe.data, recipe.task, journal, folder)
    return prepare(recipe.data, recipe.task, journal)


def _end_with(parent: int) -> None:
    """End this process when the one that started it was killed."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(3)


def _main() -> int:
    """The process beside: a recipe on stdin, folder and key as arguments."""
    from tunewright.checking import audit

    folder, key = sys.argv[1:]
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    recipe = parse_recipe(sys.stdin.read(), "stdin")
    kept = Kept(Path(folder), recipe, key)
    audit(load_prepared(kept.rows), recipe, Journal(), only=ROW_BY_ROW, keep=kept.keep)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
