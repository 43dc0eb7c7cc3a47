#!/usr/bin/env bash
# Hands the main job to SLURM: one process a node, all its GPUs; JAX finds the others. Preempted, it is queued again.
#   NODES=4 GPUS=8 TIME=24:00:00 bash launch/slurm.sh --config=configs/pgda.py:files,swin_b --workdir=/shared/runs/one ...
#   NODES=4 bash launch/slurm.sh --dry-run --config=...       # prints the batch script only
# The repository and --workdir lie on a file system that all nodes share.
set -eu
cd "$(dirname "$0")/.."
dry=; [ "${1:-}" = --dry-run ] && dry=1 && shift
case " $* " in
  *" --workdir="*) ;;
  *) echo "error: give a --workdir=<folder> that all nodes share" >&2; exit 2 ;;
esac
for name in NODES GPUS; do
  case ${!name:-1} in '' | *[!0-9]* | 0) echo "error: $name=${!name}: must be a positive whole number" >&2; exit 2 ;; esac
done
script() {
  cat << BATCH
#!/usr/bin/env bash
#SBATCH --job-name=date_jax
#SBATCH --nodes=${NODES:-1}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=${GPUS:-8}
#SBATCH --time=${TIME:-24:00:00}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@300
export DATE_JAX_CACHE=\${DATE_JAX_CACHE:-\$HOME/.cache/date_jax}
srun --kill-on-bad-exit=0 ${VENV:-.venv}/bin/python -m date_jax.main$(printf ' %q' "$@") &
step=\$!
trap 'wait "\$step"' TERM
code=0; wait "\$step" || code=\$?
# 75: preempted, all saved; the same job goes on when there is room for it.
if [ "\$code" -eq 75 ]; then exec scontrol requeue "\$SLURM_JOB_ID"; fi
exit "\$code"
BATCH
}
if [ -n "$dry" ]; then script "$@"; exit; fi
script "$@" | sbatch
