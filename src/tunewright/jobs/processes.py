"""Child processes of a worker: each in a group of its own, ended with all that it started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

import psutil

from tunewright.errors import RunError
from tunewright.jobs.folder import JobFolder
from tunewright.store import read_json, write_json


def start_child(folder: JobFolder, phase: str) -> subprocess.Popen[bytes]:
    """Start a phase of a job; its words go to output.txt."""
    command = [sys.executable, "-m", "tunewright.jobs.child", phase, str(folder.path)]
    with open(folder.output, "ab") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            cwd=folder.path,
        )
    with suppress(psutil.NoSuchProcess):
        born = psutil.Process(process.pid).create_time()
        about = {"pid": process.pid, "born": born, "host": socket.gethostname()}
        write_json(folder.child, about)
    return process


def end_earlier_child(folder: JobFolder, grace_s: float) -> None:
    """End the child that an earlier worker of this machine left behind, if it still runs."""
    try:
        about = read_json(folder.child)
    except RunError:
        return
    if about.get("host") != socket.gethostname():
        return
    try:
        process = psutil.Process(int(about["pid"]))
        if abs(process.create_time() - about["born"]) > 1.0:
            return  # another process by now
    except psutil.Error:
        return
    end_group(process.pid, grace_s)
    with suppress(psutil.Error):
        process.wait(5.0)


def end_group(pid: int, grace_s: float) -> None:
    """Ask a process group to end, and kill it once the grace time is over."""
    _signal(pid, signal.SIGTERM)
    until = time.monotonic() + grace_s
    while time.monotonic() < until and _runs(pid):
        time.sleep(0.05)
    _signal(pid, getattr(signal, "SIGKILL", signal.SIGTERM))


def memory_of(pid: int) -> int:
    """Bytes that a process holds in memory; 0 once it is gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(pid, number)
        else:
            os.kill(pid, number)


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
