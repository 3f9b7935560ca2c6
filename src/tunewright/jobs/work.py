"""A worker as a process: `python -m tunewright.jobs.work FOLDER [--standby SERVER]`.

--standby is how `tunewright serve` starts its own: one at a time works in a folder, the next waits
until that one is gone. So a server that was killed and started again does not end what its earlier
worker trains, and does not train beside it. A worker whose server is gone ends when it is idle.
SERVER is that server's process id: asking for the parent's would come too late where the server was
killed while its worker was still starting, and on Windows the parent is the environment's launcher.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import psutil

from tunewright.errors import UserError
from tunewright.jobs.home import open_home
from tunewright.jobs.worker import Worker
from tunewright.settings import ServerFolder

IDLE_S = 5.0
RESTART_S = 1.0


def main(arguments: list[str]) -> int:
    """Work until SIGTERM or SIGINT."""
    folder = Path(arguments[0])
    server = int(arguments[2]) if arguments[1:2] == ["--standby"] else None
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    try:
        work(folder, stopped, server=server)
    except UserError as error:
        print(f"worker: {error}", file=sys.stderr)
        return 2
    return 0


def work(folder: Path, stopped: threading.Event, *, server: int | None = None) -> None:
    """Work on the jobs of a server's folder until stopped.

    server: process id of the server that started this worker, which ends after it.
    """
    home = open_home(folder)
    orphan = _outlived(server)

    with nullcontext() if server is None else _alone(home.folder, stopped, orphan):
        worker = Worker(home.database, home.folder, home.settings, say=_say)
        idle_since = time.monotonic()

        def over() -> bool:
            nonlocal idle_since
            if worker.tasks:
                idle_since = time.monotonic()
            return stopped.is_set() or (orphan() and time.monotonic() - idle_since > IDLE_S)

        worker.run(over)
    home.database.close()


def _outlived(server: int | None) -> Callable[[], bool]:
    """Tells whether the server is gone; never where there is none. A number used anew is not it."""
    if server is None:
        return lambda: False
    try:
        process = psutil.Process(server)
    except psutil.NoSuchProcess:
        return lambda: True

    def gone() -> bool:
        try:
            return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return gone


@contextmanager
def keep_worker(folder: ServerFolder) -> Iterator[None]:
    """A worker process beside the block, started again when it dies."""
    command = [sys.executable, "-m", "tunewright.jobs.work", str(folder.path), "--standby"]
    command.append(str(os.getpid()))
    over = threading.Event()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def look() -> None:
        nonlocal process
        while not over.wait(RESTART_S):
            if process.poll() is not None:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, start_new_session=True
                )

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        process.terminate()
        process.wait()


@contextmanager
def _alone(
    folder: ServerFolder, stopped: threading.Event, orphan: Callable[[], bool]
) -> Iterator[None]:
    """Hold the folder's worker lock, which dies with the process; waits for it."""
    try:
        import fcntl
    except ImportError:  # Windows: leases alone keep workers apart
        yield
        return
    with open(folder.worker_lock, "w") as lock:
        while True:
            if stopped.is_set() or orphan():
                raise SystemExit(0)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                stopped.wait(0.2)
        yield


def _say(text: str) -> None:
    print(f"worker: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
