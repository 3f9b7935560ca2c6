"""Files that start the same run elsewhere: for Slurm, Kubeflow and SkyPilot.

Text only; nothing is contacted. Each starts torchrun on every host with the command that a user
would give, and goes on from the last checkpoint where the run folder holds one.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunewright.errors import UserError

PORT = 29_500
RETRIES = 3


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be started. same: the arguments of `tunewright train` beside --resume.

    gpus: on each host, 0 for none; image: of a container, where one is used.
    """

    same: Sequence[str]
    run_dir: str
    hosts: int = 1
    nproc: int = 1
    gpus: int = 0
    image: str = "python:3.12"

    @property
    def name(self) -> str:
        """Lower case letters, digits and dashes, as Kubernetes wants names."""
        last = self.run_dir.rstrip("/").rpartition("/")[2].lower()
        plain = re.sub(r"[^a-z0-9]+", "-", last).strip("-")
        return f"tunewright-{plain or 'run'}"[:52].rstrip("-")


def slurm_script(request: Request) -> str:
    """A script for `sbatch`: one torchrun on each host through srun.

    Preempted or on a lost host, Slurm puts the job back into its queue; a rank that dies is tried
    again in place; a mistake of the user's (status 2) or a "no" (1) ends the job.
    """
    run = shlex.quote(request.run_dir)
    gpus = f"#SBATCH --gpus-per-node={request.gpus}\n" if request.gpus else ""
    train = shlex.join(["-m", "tunewright", "train", *request.same])
    return f"""\
#!/bin/bash
#SBATCH --job-name={request.name}
#SBATCH --nodes={request.hosts}
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task={request.nproc}
{gpus}#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={request.name}.%j.txt
# Written by `tunewright train --launcher slurm`. The run folder must be seen by all hosts.
run={run}
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
start=$(cat <<'END'
exec {shlex.quote(sys.executable)} -m torch.distributed.run --nnodes="$SLURM_JOB_NUM_NODES" \\
  --node-rank="$SLURM_PROCID" --nproc-per-node={request.nproc} --master-addr="$MASTER_ADDR" \\
  --master-port="$MASTER_PORT" --max-restarts=0 {train} $TUNEWRIGHT_AGAIN
END
)
for try in $(seq {RETRIES}); do
  export MASTER_PORT=$((20000 + (SLURM_JOB_ID * {RETRIES} + try) % 30000))
  export TUNEWRIGHT_ATTEMPT="$run/.launch/slurm-$SLURM_JOB_ID-${{SLURM_RESTART_COUNT:-0}}-$try"
  mkdir -p "$TUNEWRIGHT_ATTEMPT"
  export TUNEWRIGHT_AGAIN=$([ -f "$run/recipe.yaml" ] && [ -f "$run/state.json" ] && echo --resume)
  srun --kill-on-bad-exit=1 bash -c "$start" && exit 0
  if grep -qs '"status": [12],' "$TUNEWRIGHT_ATTEMPT"/rank-*.end; then
    grep -hs '"message"' "$TUNEWRIGHT_ATTEMPT"/rank-*.end
    exit 2
  fi
  # Stopped by a signal, and saved: Slurm is about to end this job or to put it back in its queue.
  grep -qs '"status": 3,' "$TUNEWRIGHT_ATTEMPT"/rank-*.end && sleep 60 && exit 3
  sleep $((try * 2))
done
exit 3
"""


def kubeflow_file(request: Request) -> str:
    """A TrainJob for Kubeflow Trainer v2 on its `torch-distributed` runtime."""
    resources = {"limits": {"nvidia.com/gpu": request.gpus}} if request.gpus else {
        "requests": {"cpu": request.nproc}
    }  # fmt: skip
    volume = {"name": "runs", "persistentVolumeClaim": {"claimName": "tunewright-runs"}}
    mount = {"name": "runs", "mountPath": "/runs"}
    return _yaml(
        {
            "apiVersion": "trainer.kubeflow.org/v1alpha1",
            "kind": "TrainJob",
            "metadata": {"name": request.name},
            "spec": {
                "runtimeRef": {"name": "torch-distributed"},
                "trainer": {
                    "image": request.image,
                    "command": ["bash", "-c", _shell(request, "torchrun")],
                    "numNodes": request.hosts,
                    "numProcPerNode": request.nproc,
                    "resourcesPerNode": resources,
                },
                "podTemplateOverrides": [
                    {
                        "targetJobs": [{"name": "node"}],
                        "spec": {
                            "volumes": [volume],
                            "containers": [{"name": "node", "volumeMounts": [mount]}],
                        },
                    }
                ],
            },
        }
    )


def skypilot_file(request: Request) -> str:
    """A task for `sky jobs launch`; the run folder is in a bucket, for a new cluster to resume."""
    torchrun = (
        'torchrun --nnodes="$SKYPILOT_NUM_NODES" --node-rank="$SKYPILOT_NODE_RANK" '
        f"--nproc-per-node={request.nproc} "
        '--master-addr="$(echo "$SKYPILOT_NODE_IPS" | head -n 1)" '
        f"--master-port={PORT}"
    )
    resources: dict[str, Any] = {"job_recovery": {"max_restarts_on_errors": RETRIES}}
    if request.gpus:
        resources = {"accelerators": f"H100:{request.gpus}", **resources}
    return _yaml(
        {
            "name": request.name,
            "num_nodes": request.hosts,
            "resources": resources,
            "workdir": ".",
            "file_mounts": {"/runs": {"name": "tunewright-runs", "mode": "MOUNT"}},
            "setup": "pip install tunewright",
            "run": _shell(request, torchrun),
        }
    )


def write_file(launcher: str, request: Request) -> str:
    """The text for a launcher. Raises UserError where there is no such one."""
    if launcher not in EXPORTS:
        raise UserError(
            f"--launcher {launcher}: no such launcher; there are local, {', '.join(EXPORTS)}"
        )
    return EXPORTS[launcher](request)


EXPORTS: Mapping[str, Callable[[Request], str]] = {
    "slurm": slurm_script,
    "kubeflow": kubeflow_file,
    "skypilot": skypilot_file,
}


def _shell(request: Request, torchrun: str) -> str:
    """Start torchrun, going on where the run folder holds a run."""
    run = shlex.quote(request.run_dir)
    train = shlex.join(["train", *request.same])
    return (
        f"again=$([ -f {run}/recipe.yaml ] && [ -f {run}/state.json ] && echo --resume)\n"
        f"exec {torchrun} -m tunewright {train} $again\n"
    )


def _yaml(document: Mapping[str, Any]) -> str:
    import yaml

    head = (
        "# Written by `tunewright train --launcher`; image, storage and GPUs are yours to check.\n"
    )
    return head + yaml.dump(dict(document), sort_keys=False, width=1000)
