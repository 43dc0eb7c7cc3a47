#!/usr/bin/env bash
# Hands the main job to SLURM: one process a node with all its GPUs; JAX finds the others. Preempted, it is queued again.
#   NODES=4 GPUS=8 TIME=24:00:00 bash launch/slurm.sh --config=configs/pgda.py:files,swin_b --workdir=/nfs/runs/one ...
# --dry-run prints the batch script only. The repository and the workdir lie on a file system that all nodes share, and
# .venv holds a JAX for their GPUs (BUILD.md, Install).
set -eu
. "$(dirname "$0")/help.sh"
. "$(dirname "$0")/arguments.sh"
cd "$(dirname "$0")/.."
whole NODES; whole GPUS
script() {
  cat << BATCH
#!/usr/bin/env bash
#SBATCH --job-name=date_jax
#SBATCH --nodes=${NODES:-1}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=${GPUS:-8}
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=${TIME:-24:00:00}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@300
export DATE_JAX_CACHE=\${DATE_JAX_CACHE:-\$HOME/.cache/date_jax}
export JAX_PLATFORMS=cuda
# Under SLURM JAX would take one GPU a process.
export JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((${GPUS:-8} - 1)))
heard=
trap 'heard=1' TERM
# All cores, or srun would give the task one of them.
srun --kill-on-bad-exit=0 --cpus-per-task="\${SLURM_CPUS_ON_NODE:-1}" $(printf '%q' "${VENV:-.venv}/bin/python") -m date_jax.main$words &
step=\$!
code=0; wait "\$step" || code=\$?
# A signal ends the wait early: the step is then still saving, and its own code comes with the next one.
while [ -n "\$heard" ]; do heard=; code=0; wait "\$step" || code=\$?; done
# 75: preempted, all saved; the same job goes on when there is room for it.
if [ "\$code" -eq 75 ]; then exec scontrol requeue "\$SLURM_JOB_ID"; fi
exit "\$code"
BATCH
}
if [ -n "$dry" ]; then script; exit; fi
script | sbatch
