"""Who owns the retries of a run by several processes: one attempt per launch, until it is done.

A failed attempt is followed by another from the last checkpoint, with as many ranks as there are
places then. A mistake of the user's, a "no" and a stop end it; so does a step that fails three
times in a row, for then the next attempt would fail as well.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tunewright import errors
from tunewright.cluster.attempt import Attempt, Beat, Ending, new_attempt
from tunewright.cluster.launch import HostsLauncher, Launcher, Running
from tunewright.cluster.watch import Watch
from tunewright.errors import Interrupted, TunewrightError
from tunewright.journal import Journal
from tunewright.store import RunFolder

POLL_S = 0.1
LOOK_S = 1.0
MOST_FAILURES = 3
"""Of one step in a row."""
LONGEST_BACK_OFF_S = 60.0
START_S = {True: 45.0, False: 180.0}
"""From a launch until every rank gave a sign of life; True: on several hosts, of which one may be
gone, so that the others must not wait long."""
PATIENCE_S = 45.0
"""From a request to stop until ranks that do not follow it are killed."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong in an attempt. step: how far it had come."""

    reason: str
    step: int


@dataclass
class Supervisor:
    """Runs `command` as the ranks of attempt after attempt."""

    command: Callable[[bool], Sequence[str]]
    """The command line of every rank; takes whether an earlier start is to be resumed."""
    folder: RunFolder
    launcher: Launcher
    journal: Journal
    failures: list[Failure] = field(default_factory=list)

    def run(self, *, resume: bool) -> None:
        """Until the run is done. Raises what ended it otherwise."""
        with _stop_requests() as stop:
            while True:
                places = self.launcher.places()
                if places == 0:
                    raise Interrupted("no host is left to train on; continue later with --resume")
                attempt = new_attempt(self.folder.launches)
                failure = self._attempt(attempt, stop, places, resume=resume)
                if failure is None:
                    return
                self._judge(failure)
                resume = self.folder.recipe.exists() and self.folder.state.exists()
                wait_s = self._back_off_s()
                self.journal.warn(f"{failure.reason}; starting again in {wait_s:.1f} s")
                if stop.wait(wait_s):
                    raise Interrupted("stopped between two attempts")

    def _attempt(
        self, attempt: Attempt, stop: threading.Event, places: int, *, resume: bool
    ) -> Failure | None:
        """One launch, from its start to the end of its last rank; None where the run is done."""
        running = self.launcher.start(self.command(resume), attempt)
        watch, stalled, asked_at, looked_at = Watch(), "", None, 0.0
        started = ended_at = time.monotonic()
        start_s = START_S[isinstance(self.launcher, HostsLauncher)]
        while not running.ended():
            time.sleep(POLL_S)
            now = time.monotonic()
            if stop.is_set() and asked_at is None:
                asked_at = now
                running.stop()
            if asked_at is not None and now - asked_at > PATIENCE_S:
                _end(attempt, running)
            if stalled and now - ended_at > PATIENCE_S:
                break  # a launcher that does not end: the next attempt does not wait for it
            if now - looked_at < LOOK_S or stalled:
                continue
            looked_at = ended_at = now
            missing = places - len(attempt.beats()) if now - started > start_s else 0
            if missing > 0:
                stalled = f"{missing} of {places} ranks did not come up in {start_s:.0f} s"
                running.kill()
                continue
            found = watch.look(_alive(attempt))
            if found is not None:
                beat, why = found
                stalled = f"{beat.name} stalls at step {beat.step}: {why}"
                self.journal.warn(stalled)
                _kill(beat, attempt)
        attempt.give_up()
        if isinstance(self.launcher, HostsLauncher):
            self._leave_out_silent_hosts(attempt)
        return _read_endings(attempt, stalled, stopping=stop.is_set())

    def _judge(self, failure: Failure) -> None:
        """Raise Interrupted where the same step failed too often."""
        self.failures.append(failure)
        last = self.failures[-MOST_FAILURES:]
        if len(last) == MOST_FAILURES and len({one.step for one in last}) == 1:
            reasons = "; ".join(dict.fromkeys(one.reason for one in last))
            raise Interrupted(
                f"training: step {failure.step} failed {MOST_FAILURES} times, so it is not tried "
                f"again ({reasons}); mend the cause, then use --resume"
            )

    def _back_off_s(self) -> float:
        """Half a second, doubled for each failure in a row without progress."""
        same = 0
        for one in reversed(self.failures):
            if one.step != self.failures[-1].step:
                break
            same += 1
        return min(LONGEST_BACK_OFF_S, 0.5 * 2.0 ** (same - 1))

    def _leave_out_silent_hosts(self, attempt: Attempt) -> None:
        assert isinstance(self.launcher, HostsLauncher)
        ranks, nproc = set(attempt.beats()), self.launcher.nproc
        if not ranks:
            return
        silent = [
            host.name
            for number, host in enumerate(self.launcher.used)
            if not ranks & set(range(number * nproc, (number + 1) * nproc))
        ]
        if silent:
            self.journal.warn(f"host {', '.join(silent)}: no rank came up there; left out from now")
            self.launcher.leave_out(silent)


def _read_endings(attempt: Attempt, stalled: str, *, stopping: bool) -> Failure | None:
    """None where the run is done, the failure to recover from, or an error that ends it."""
    endings, beats = attempt.endings(), attempt.beats()
    first = endings.get(0)
    for ending in (*([first] if first else []), *endings.values()):
        if ending.status in (1, 2) or ending.kind == "DiskFull":
            raise _error_of(ending)
    if first is not None and first.status == 0 and all(e.status == 0 for e in endings.values()):
        return None
    step = max((beat.step for beat in beats.values()), default=0)
    if stopping:
        said = first.message if first is not None and first.status == 3 else "stopped by Ctrl-C"
        raise Interrupted(said)
    killed = [beat for rank, beat in sorted(beats.items()) if rank not in endings]
    broken = [ending for ending in endings.values() if ending.status == 4]
    if not killed and not broken and not stalled and first is not None and first.status == 3:
        raise _error_of(first)
    return Failure(stalled or _reason(killed, broken, beats), step)


def _reason(
    killed: Sequence[Beat], broken: Sequence[Ending], beats: dict[int, Beat] | object
) -> str:
    if broken:
        one = broken[0]
        return f"rank {one.rank} on {one.host}: {one.kind} at step {one.step}: {one.message}"
    if killed:
        named = ", ".join(f"{beat.name} (step {beat.step})" for beat in killed)
        return f"{named}: killed from outside"
    if not beats:
        return "no rank came up: is a port taken, or the command not found?"
    return "the ranks lost each other"


def _error_of(ending: Ending) -> TunewrightError:
    """The error that a rank ended with, as it would be raised here."""
    kind = getattr(errors, ending.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, TunewrightError)):
        kind = {1: errors.Refusal, 2: errors.UserError}.get(ending.status, Interrupted)
    return kind(ending.message)


def _alive(attempt: Attempt) -> dict[int, Beat]:
    ended = attempt.endings()
    return {rank: beat for rank, beat in attempt.beats().items() if rank not in ended}


def _kill(beat: Beat, attempt: Attempt) -> None:
    """End a rank that stalls, here or through its own pulse elsewhere; the others follow."""
    with suppress(ProcessLookupError, PermissionError):
        if _is_ours(beat, attempt):
            os.kill(beat.pid, signal.SIGKILL)
    attempt.give_up()


def _end(attempt: Attempt, running: Running) -> None:
    for beat in _alive(attempt).values():
        _kill(beat, attempt)


def _is_ours(beat: Beat, attempt: Attempt) -> bool:
    """True where a process of this number on this host works for this attempt."""
    try:
        told = Path(f"/proc/{beat.pid}/environ").read_bytes()
    except OSError:
        return False
    return str(attempt.folder.absolute()).encode() in told


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, in place of what they do elsewhere."""
    event = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {n: signal.signal(n, lambda number, frame: event.set()) for n in numbers}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
