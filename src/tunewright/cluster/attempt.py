"""One attempt of several processes at a run: what each rank leaves in a folder that all can see.

.launch/attempt-0003/   rank-0.beat   signs of life, twice a second: host, pid, step, waiting
                        rank-0.end    how the rank ended: exit status, message
                        rank-1.log    what ranks beside the first print
                        ended         the supervisor gave this attempt up: ranks left go too
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunewright.store import host_name, write_json

PLACE = "TUNEWRIGHT_ATTEMPT"
"""Names, in the environment of a rank, the folder of its attempt."""
BEAT_S = 0.5
LOST_RANK, GIVEN_UP = 5, 6
"""Exit statuses of a rank whose partner is gone, and of one whose supervisor is."""


@dataclass(frozen=True, slots=True)
class Beat:
    """A sign of life. arrivals: exchanges that the rank has come to; ticks: signs so far."""

    rank: int
    host: str
    pid: int
    stage: str
    step: int
    waiting: bool
    arrivals: int
    ticks: int

    @property
    def name(self) -> str:
        """The rank, for messages."""
        return f"rank {self.rank} on {self.host}"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a rank ended by itself; a rank that was killed leaves none. status: as of the command."""

    rank: int
    host: str
    status: int
    kind: str
    message: str
    step: int


class Attempt:
    """The folder of one attempt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def beats(self) -> dict[int, Beat]:
        """The newest sign of life of every rank that gave one."""
        return {item["rank"]: Beat(**item) for item in self._read("beat")}

    def endings(self) -> dict[int, Ending]:
        """Of every rank that ended by itself."""
        return {item["rank"]: Ending(**item) for item in self._read("end")}

    def give_up(self) -> None:
        """Tell ranks that are still somewhere to go: nobody waits for them."""
        with suppress(OSError):
            (self.folder / "ended").touch()

    def _read(self, suffix: str) -> list[dict[str, Any]]:
        found = []
        for path in sorted(self.folder.glob(f"rank-*.{suffix}")):
            with suppress(OSError, ValueError):  # being replaced just now
                found.append(json.loads(path.read_text(encoding="utf-8")))
        return found


def new_attempt(launches: Path, *, keep: int = 5) -> Attempt:
    """A fresh folder after those of earlier attempts, of which the last few are kept."""
    launches.mkdir(parents=True, exist_ok=True)
    earlier = sorted(p for p in launches.iterdir() if re.fullmatch(r"attempt-\d+", p.name))
    number = int(earlier[-1].name.partition("-")[2]) + 1 if earlier else 1
    for path in earlier[:-keep]:
        for file in path.iterdir():
            file.unlink(missing_ok=True)
        path.rmdir()
    folder = launches / f"attempt-{number:04d}"
    folder.mkdir()
    return Attempt(folder)


class Pulse:
    """Signs of life of this process, from a thread of its own; ends the process when all is over.

    A process that is stopped, or dead but for its name, gives none: that is how it is found.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self.rank = folder, rank
        self.stage, self.step, self.waiting, self.arrivals, self.ticks = "starting", 0, False, 0, 0
        self.parent = os.getppid()
        threading.Thread(target=self._run, name="pulse", daemon=True).start()

    def note(self, ranks: Any, waiting: bool) -> None:
        """Where the rank is; called at every exchange, so it only remembers."""
        self.stage, self.step, self.waiting = ranks.stage, ranks.step, waiting
        self.arrivals += waiting

    def end(self, status: int, kind: str, message: str) -> None:
        """Leave word of how this rank ended."""
        host = host_name()
        ending = Ending(self.rank, host, status, kind, message, self.step)
        with suppress(Exception):  # the supervisor sees the exit itself
            write_json(self.folder / f"rank-{self.rank}.end", asdict(ending))

    def _run(self) -> None:
        while True:
            self.ticks += 1
            beat = Beat(
                self.rank, host_name(), os.getpid(), self.stage, self.step, self.waiting,
                self.arrivals, self.ticks,
            )  # fmt: skip
            _replace(self.folder / f"rank-{self.rank}.beat", asdict(beat))
            if (self.folder / "ended").exists() or os.getppid() != self.parent:
                os._exit(GIVEN_UP)
            time.sleep(BEAT_S)


def _replace(path: Path, document: Mapping[str, Any]) -> None:
    """Like write_json, without waiting for the disk: an old sign of life is worth nothing."""
    temporary = path.with_name(f".{path.name}.tmp")
    with suppress(OSError):
        temporary.write_text(json.dumps(document), encoding="utf-8")
        temporary.replace(path)
