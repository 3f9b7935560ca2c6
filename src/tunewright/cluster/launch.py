"""How the ranks of one attempt are started, on this host or on several: torchrun in either case.

One attempt is one launch: torchrun's own restarts are off, and every launch has a rendezvous of its
own, for a store that outlives its attempt made restarts hang. Who tries again is supervise.py.
"""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from tunewright.cluster.attempt import PLACE, Attempt
from tunewright.errors import RecipeError

GRACE_S = 30
"""What ranks have to leave by themselves, once another one failed or a stop was asked for."""


@dataclass(frozen=True, slots=True)
class Host:
    """name: what the remote shell is told; address: where its ranks are reached by the others."""

    name: str
    address: str


class Running(Protocol):
    """Ranks that were started."""

    def ended(self) -> bool: ...  # noqa: D102
    def stop(self) -> None: ...  # noqa: D102
    def kill(self) -> None: ...  # noqa: D102


class Launcher(Protocol):
    """Starts the ranks of an attempt; knows anew each time how many there can be."""

    def places(self) -> int: ...  # noqa: D102
    def start(self, command: Sequence[str], attempt: Attempt) -> Running: ...  # noqa: D102


def environment(attempt: Attempt, threads: int) -> dict[str, str]:
    """What every rank finds in its environment."""
    return {
        PLACE: str(attempt.folder.absolute()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }


class LocalLauncher:
    """So many ranks on this host, by torchrun's agent in a thread of this process."""

    def __init__(self, nproc: int) -> None:
        self.nproc = nproc

    def places(self) -> int:
        """As many as asked for, or as there are GPUs where there are any."""
        import torch

        gpus = torch.cuda.device_count()
        return min(self.nproc, gpus) if gpus else self.nproc

    def start(self, command: Sequence[str], attempt: Attempt) -> Running:
        """Start this many ranks."""
        count = self.places()
        threads = max(1, len(os.sched_getaffinity(0)) // count)
        return _LocalRanks(command, count, environment(attempt, threads), attempt)


class _LocalRanks:
    """torchrun's agent and its ranks."""

    def __init__(
        self, command: Sequence[str], count: int, extra: Mapping[str, str], attempt: Attempt
    ) -> None:
        self.attempt = attempt
        os.environ.update(extra)  # the agent's children inherit it
        self.thread = threading.Thread(target=self._run, args=(command, count), daemon=True)
        self.thread.start()

    def ended(self) -> bool:
        """True once no rank is left."""
        return not self.thread.is_alive()

    def stop(self) -> None:
        """Ask every rank to save and leave."""
        for beat in self.attempt.beats().values():
            with suppress(ProcessLookupError):
                os.kill(beat.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End every rank at once; torchrun's agent sees it and ends too."""
        for beat in self.attempt.beats().values():
            with suppress(ProcessLookupError):
                os.kill(beat.pid, signal.SIGKILL)

    def _run(self, command: Sequence[str], count: int) -> None:
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=secrets.token_hex(8),
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=0,
            monitor_interval=0.1,
            shutdown_timeout=GRACE_S,
        )
        # How ranks ended stands in the attempt's folder; what torchrun says of it adds nothing.
        with suppress(Exception):
            elastic_launch(config, command[0])(*command[1:])


class HostsLauncher:
    """Ranks on several hosts: one torchrun each, started through a remote shell.

    The run folder must be seen by all hosts. A host that does not answer, or from which no rank
    gave a sign of life, is left out of the next attempt.
    """

    def __init__(self, hosts: Sequence[Host], nproc: int, shell: str) -> None:
        """shell: a command that takes a host and a command line, as "ssh {host}" does."""
        self.hosts, self.nproc, self.shell = list(hosts), nproc, shell
        self.used: list[Host] = []

    def places(self) -> int:
        """Ranks on all hosts that answer now."""
        self.used = [host for host in self.hosts if self._answers(host)]
        return self.nproc * len(self.used)

    def start(self, command: Sequence[str], attempt: Attempt) -> Running:
        """Start one torchrun on each host that answers."""
        if not self.used and not self.places():
            raise RecipeError("--hosts: none of them answers; check names and --remote-shell")
        port, run = str(20_000 + secrets.randbelow(30_000)), secrets.token_hex(8)
        values = environment(attempt, max(1, len(os.sched_getaffinity(0)) // self.nproc))
        values["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
        values |= {k: v for k, v in os.environ.items() if k.startswith(("GLOO_", "NCCL_", "HF_"))}
        children = []
        first = self.used[0].address
        for number, host in enumerate(self.used):
            line = [
                "env", *(f"{key}={value}" for key, value in values.items()),
                f"TUNEWRIGHT_HOST={host.name}", f"TUNEWRIGHT_ADDRESS={host.address}",
                sys.executable, "-m", "torch.distributed.run",
                f"--nnodes={len(self.used)}", f"--node-rank={number}",
                f"--nproc-per-node={self.nproc}", "--max-restarts=0", "--monitor-interval=0.1",
                f"--rdzv-id={run}", "--rdzv-backend=static", f"--master-addr={first}",
                f"--master-port={port}", f"--local-addr={host.address}",
                f"--rdzv-conf=timeout={GRACE_S}", "--no-python", *command,
            ]  # fmt: skip
            children.append(self._remote(host, line))
        return _HostRanks(children, attempt)

    def leave_out(self, silent: Sequence[str]) -> None:
        """Do not use these hosts (by name) again."""
        self.hosts = [host for host in self.hosts if host.name not in silent]

    def _answers(self, host: Host) -> bool:
        child = self._remote(host, ["true"])
        try:
            return child.wait(10) == 0
        except subprocess.TimeoutExpired:
            child.kill()
            return False

    def _remote(self, host: Host, line: Sequence[str]) -> subprocess.Popen[bytes]:
        words = [word.replace("{host}", host.name) for word in shlex.split(self.shell)]
        # ssh joins its words and hands them to a shell there; other remote shells take them as is.
        there = [shlex.join(line)] if os.path.basename(words[0]) == "ssh" else list(line)
        return subprocess.Popen(
            [*words, *there],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            stderr=None if line != ["true"] else subprocess.DEVNULL,
        )


class _HostRanks:
    """The remote shells of one attempt."""

    def __init__(self, children: Sequence[subprocess.Popen[bytes]], attempt: Attempt) -> None:
        self.children, self.attempt = children, attempt
        self.failed_at: float | None = None

    def ended(self) -> bool:
        """True once all are gone; after one failed, the others have GRACE_S."""
        codes = [child.poll() for child in self.children]
        if all(code is not None for code in codes):
            return True
        if self.failed_at is None and any(code not in (None, 0) for code in codes):
            self.failed_at = time.monotonic()
        if self.failed_at is not None:
            waited = time.monotonic() - self.failed_at
            if waited > 3:
                self.attempt.give_up()
            if waited > GRACE_S:
                self.kill()
        return False

    def stop(self) -> None:
        """Ask every rank to save and leave: torchrun hands the signal on."""
        for child in self.children:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End the remote shells at once; ranks that outlive theirs find the attempt given up."""
        self.attempt.give_up()
        for child in self.children:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
