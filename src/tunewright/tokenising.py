"""Examples to tokens for training: in memory where they are few, else by processes of their own.

Many rows are written in parts, which stay where a run is killed on the way, and kept in the cache
under a digest of examples, tokenizer and rendering.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from tunewright import errors
from tunewright.cache import Entry, digest, digest_source
from tunewright.data.preferences import render_training
from tunewright.data.prepare import Prepared
from tunewright.data.render import Rendering, Row, render
from tunewright.data.row_file import StoredRows, digest_rows, write_rows
from tunewright.journal import Journal
from tunewright.model.device import usable_processors

FEW_ROWS = 20_000
"""Up to this many examples, making tokens anew takes less than finding them."""
PART_EXAMPLES = 10_000
_POLL_S = 0.2
_CODE = digest_source(Path(__file__).parent / "data")


def render_for_training(
    prepared: Prepared, rendering: Rendering, journal: Journal
) -> Sequence[Row]:
    """The training rows in tokens, in order. Raises DataError for one that cannot be rendered."""
    examples = prepared.splits.train
    if rendering.prefers is not None or rendering.task == "embed":
        return render_training(examples, rendering)
    name = _digest_tokenizer(rendering)
    if prepared.digest is None or name is None or len(examples) <= FEW_ROWS:
        return render(examples, rendering)
    how = repr(replace(rendering, tokenizer=None))
    entry = Entry("tokens", digest("tokens", _CODE, prepared.digest, how, name))
    if not entry.is_whole():
        try:
            _write_parts(prepared, rendering, entry.begin(), journal)
        except OSError as error:
            journal.warn(f"{entry.partial}: no room for tokens ({error.strerror}); kept in memory")
            return render(examples, rendering)
        entry.finish()
    return StoredRows(entry.path)


def _digest_tokenizer(rendering: Rendering) -> str | None:
    """Stands for what the tokenizer does; None for the slow kind, which does not tell."""
    tokenizer = rendering.tokenizer
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is None:
        return None
    special = {key: str(value) for key, value in tokenizer.special_tokens_map.items()}
    return digest(core.to_str(), tokenizer.chat_template, special, type(tokenizer).__name__)


def _write_parts(prepared: Prepared, rendering: Rendering, folder: Path, journal: Journal) -> None:
    """Write every part that an earlier attempt did not, on all processors."""
    count = -(-len(prepared.splits.train) // PART_EXAMPLES)
    missing = [part for part in range(count) if not _part(folder, part).exists()]
    workers = max(1, min(usable_processors(), len(missing)))
    with journal.progress("making tokens", count) as advance:

        def look() -> None:
            advance(len(list(folder.glob("part-*[0-9]"))), "")

        jobs = [missing[start::workers] for start in range(workers)]
        _run_apart([partial(_write_job, prepared, rendering, folder, job) for job in jobs],
                   folder, look)  # fmt: skip
    # Worked out apart too: the pages of all rows would count as memory of the one that trains.
    _run_apart([partial(_write_digest, folder)], folder, lambda: None)


def _part(folder: Path, number: int) -> Path:
    return folder / f"part-{number:06d}"


def _write_part(prepared: Prepared, rendering: Rendering, folder: Path, number: int) -> None:
    start = number * PART_EXAMPLES
    examples = prepared.splits.train[start : start + PART_EXAMPLES]
    aside = folder / f"part-{number:06d}.new"
    aside.mkdir(exist_ok=True)
    write_rows(aside, render(examples, rendering))
    aside.rename(_part(folder, number))


def _write_job(prepared: Prepared, rendering: Rendering, folder: Path, parts: list[int]) -> None:
    for part in parts:
        _write_part(prepared, rendering, folder, part)


def _write_digest(folder: Path) -> None:
    digest_rows(StoredRows(folder))


def _run_apart(jobs: Sequence[Callable[[], None]], folder: Path, look: Callable[[], None]) -> None:
    """Run each job in a process of its own; here, one after the other, where that is not safe.

    Raises what a job raised; ends the others on the way out.
    """
    if sys.platform != "linux":
        for job in jobs:
            job()
            look()
        return
    running, failed = {_fork(job, folder) for job in jobs}, False
    try:
        while running and not failed:
            for child in list(running):
                pid, status = os.waitpid(child, os.WNOHANG)
                if pid:
                    running.discard(child)
                    failed = failed or status != 0
            look()
            time.sleep(_POLL_S if running else 0)
    finally:
        for child in running:
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)
    told = folder / "error.json"
    if told.exists():
        name, message = json.loads(told.read_bytes())
        told.unlink()
        raise getattr(errors, name)(message)
    if failed:
        raise RuntimeError("making tokens failed in a process of its own; see what it said above")


def _fork(job: Callable[[], None], folder: Path) -> int:
    """Run a job in a child that shares what is in memory; returns its process id.

    The child only tokenises and writes: it touches no thread pool that the parent had started.
    """
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        job()
        code = 0
    except errors.UserError as error:
        text = json.dumps([type(error).__name__, str(error)])
        (folder / "error.json").write_text(text, encoding="utf-8")
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        os._exit(code)
    return child
