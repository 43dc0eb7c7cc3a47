#!/usr/bin/env bash
# Starts the main job on every worker of a TPU VM slice, where this repository lies in ~/date_jax, and leaves it running;
# each worker writes ~/date_jax/run.log.
#   TPU=my-slice ZONE=us-east5-a bash launch/tpu_vm.sh --config=configs/pgda.py:files,swin_b --workdir=/nfs/runs/one ...
# --dry-run prints the command only. The workdir and the data have to lie on a file system that all workers mount.
set -eu
. "$(dirname "$0")/help.sh"
. "$(dirname "$0")/arguments.sh"
[ -n "${TPU:-}" ] && [ -n "${ZONE:-}" ] || { echo "error: name the slice: TPU=<name> ZONE=<zone> bash launch/tpu_vm.sh ..." >&2; exit 2; }
remote="cd ~/date_jax && bash launch/setup.sh && .venv/bin/pip install -q 'jax[tpu]' && "
# --distributed: JAX asks the platform for the other workers. A lost connection must not end the job.
remote+="{ JAX_PLATFORMS=tpu nohup setsid bash launch/again.sh .venv/bin/python -m date_jax.main --distributed$words > run.log 2>&1 < /dev/null & }"
ssh=(gcloud compute tpus tpu-vm ssh "$TPU" "--zone=$ZONE" --worker=all)
if [ -n "$dry" ]; then printf '%q ' "${ssh[@]}" "--command=$remote"; echo; exit; fi
"${ssh[@]}" "--command=$remote"
echo "running; to watch:  ${ssh[*]/--worker=all/--worker=0} --command='tail -f date_jax/run.log'"
echo "to stop and save:   ${ssh[*]} --command='pkill -TERM -f date_jax.main'"
