#!/bin/bash
#SBATCH --job-name=tunewright-first
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=8
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=tunewright-first.%j.txt
# Written by `tunewright train --launcher slurm`. The run folder must be seen by all hosts.
run=/runs/first
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
start=$(cat <<'END'
exec /opt/python -m torch.distributed.run --nnodes="$SLURM_JOB_NUM_NODES" \
  --node-rank="$SLURM_PROCID" --nproc-per-node=8 --master-addr="$MASTER_ADDR" \
  --master-port="$MASTER_PORT" --max-restarts=0 -m tunewright train 'my recipe.yaml' --run-dir /runs/first --set=training.seed=3 $TUNEWRIGHT_AGAIN
END
)
for try in $(seq 3); do
  export MASTER_PORT=$((20000 + (SLURM_JOB_ID * 3 + try) % 30000))
  export TUNEWRIGHT_ATTEMPT="$run/.launch/slurm-$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}-$try"
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
