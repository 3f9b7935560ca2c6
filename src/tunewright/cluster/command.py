"""`tunewright train --nproc`: the command line becomes ranks, and their run folder a report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tunewright.cluster.launch import Host, HostsLauncher, Launcher, LocalLauncher
from tunewright.cluster.supervise import Supervisor
from tunewright.errors import UserError
from tunewright.store import RunFolder, open_run

if TYPE_CHECKING:
    from tunewright.journal import Journal
    from tunewright.records import Report


def train_with_ranks(
    same: Sequence[str],
    run_dir: Path,
    journal: Journal,
    *,
    resume: bool,
    nproc: int,
    hosts: str | None,
    shell: str,
) -> Report:
    """Train by several processes until it is done; the report that rank 0 wrote.

    same: the arguments of `tunewright train` that every rank is given. Raises what ended a rank.
    """
    from tunewright.report.files import read_report

    launcher: Launcher = LocalLauncher(nproc)
    if hosts is not None:
        launcher = HostsLauncher(read_hosts(hosts), nproc, shell)
    folder = open_run(run_dir, resume=resume)
    line = [sys.executable, "-m", "tunewright", "train", *same]
    journal.log_file = folder.log if resume else None
    Supervisor(lambda again: [*line, "--resume"] if again else line, folder, launcher, journal).run(
        resume=resume
    )
    return read_report(RunFolder(run_dir).report_json)


def read_hosts(text: str) -> list[Host]:
    """Hosts of `NAME=ADDRESS,...`; a name alone is its own address. Raises UserError."""
    hosts = []
    for item in text.split(","):
        name, _, address = item.strip().partition("=")
        if not name:
            raise UserError(f"--hosts: {text!r} has an empty name; give NAME=ADDRESS,NAME=ADDRESS")
        hosts.append(Host(name, address or name))
    if len({host.name for host in hosts}) < len(hosts):
        raise UserError(f"--hosts: {text!r} names a host twice; give each once")
    return hosts
