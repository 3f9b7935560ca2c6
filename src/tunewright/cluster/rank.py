"""What `tunewright train` does where it was started as one of several ranks."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tunewright.cluster.attempt import LOST_RANK, PLACE, Pulse
from tunewright.errors import TunewrightError
from tunewright.journal import ConsoleJournal, Journal, silence

if TYPE_CHECKING:
    from tunewright.config import Recipe
    from tunewright.records import Report


def is_rank() -> bool:
    """True where torchrun, or something that speaks like it, started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def train_as_rank(recipe: Recipe, run_dir: Path, *, resume: bool) -> Report | None:
    """Play one rank's part in a training; the report on rank 0, None on the others.

    Under a supervisor this never returns: the ending is left in the attempt's folder.
    """
    rank = int(os.environ["RANK"])
    if PLACE not in os.environ:
        return _play(recipe, run_dir, resume, rank, None)
    folder = Path(os.environ[PLACE])
    if rank > 0:
        _print_to(folder / f"rank-{rank}.log")
    pulse = Pulse(folder, rank)
    ended: BaseException | None = None
    try:
        _play(recipe, run_dir, resume, rank, pulse)
    except BaseException as error:  # the border: whatever it is, the supervisor puts it in words
        ended = error
    return _leave(pulse, ended)


def _play(
    recipe: Recipe, run_dir: Path, resume: bool, rank: int, pulse: Pulse | None
) -> Report | None:
    from tunewright.pipeline import assist, train
    from tunewright.train.parallel import join_group

    ranks = join_group() if pulse is None else join_group(pulse.note)
    if rank > 0:
        assist(ranks)
        return None
    journal: Journal = silence() if os.environ.get("TUNEWRIGHT_QUIET") else ConsoleJournal()
    return train(recipe, run_dir, journal, resume=resume, ranks=ranks)


def _leave(pulse: Pulse, error: BaseException | None) -> NoReturn:
    """End the process at once: threads of a broken group would keep it waiting."""
    status = 0
    if error is not None:
        status, kind, message = _describe(error)
        pulse.end(status, kind, message)
    else:
        pulse.end(0, "", "")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _describe(error: BaseException) -> tuple[int, str, str]:
    kind = type(error).__name__
    if kind == "LostRankError":
        return LOST_RANK, kind, str(error)
    if isinstance(error, TunewrightError):
        return error.exit_status, kind, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 3, "Interrupted", str(error) or "stopped by Ctrl-C"
    import traceback

    traceback.print_exception(error)
    return 4, kind, " ".join(str(error).split())[:500]


def _print_to(path: Path) -> None:
    """Lead what this process prints to a file: one voice on the screen is enough."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
