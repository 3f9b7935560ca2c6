"""A real Slurm on this machine: slurmctld, slurmd and munged as processes of a test."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "scancel")
CONF = """\
ClusterName=test
SlurmctldHost={host}
SlurmctldPort={port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge.socket
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/ctld.pid
SlurmdPidFile={place}/d.pid
SlurmctldLogFile={place}/ctld.log
SlurmdLogFile={place}/d.log
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=20
ReturnToService=2
MpiDefault=none
JobRequeue=1
SchedulerParameters=batch_sched_delay=1,requeue_delay=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=low Nodes={host} Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=20 State=UP
PartitionName=high Nodes={host} PriorityTier=10 PreemptMode=OFF State=UP
"""


def why_not() -> str:
    """Why Slurm cannot run here; "" where it can."""
    if os.geteuid() != 0:
        return "a Slurm of its own needs root"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"{missing[0]} is missing (Debian: slurmctld slurmd munge)" if missing else ""


@contextmanager
def one_node(place: Path) -> Iterator[dict[str, str]]:
    """The environment in which sbatch finds a Slurm of one node; all of it ends with the block."""
    (place / "state").mkdir(parents=True)
    (place / "spool").mkdir()
    key = place / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    conf = place / "slurm.conf"
    conf.write_text(
        CONF.format(
            host=socket.gethostname().partition(".")[0], place=place, cpus=os.cpu_count(),
            port=_free_port(), node_port=_free_port(),
        )
    )  # fmt: skip
    env = {**os.environ, "SLURM_CONF": str(conf)}
    commands = (
        ["munged", "--foreground", "--force", f"--key-file={key}",
         f"--socket={place}/munge.socket", f"--pid-file={place}/munge.pid",
         f"--seed-file={place}/munge.seed", f"--log-file={place}/munge.log"],
        ["slurmctld", "-D", "-f", str(conf)],
        ["slurmd", "-D", "-f", str(conf)],
    )  # fmt: skip
    children = []
    try:
        for command in commands:
            with open(place / f"{command[0]}.out", "w") as out:
                children.append(subprocess.Popen(command, env=env, stdout=out, stderr=out))
            time.sleep(1.5)
        yield env
    finally:
        for child in reversed(children):
            child.terminate()
        for child in children:
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
