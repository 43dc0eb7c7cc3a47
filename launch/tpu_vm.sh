#!/usr/bin/env bash
# Runs the main job on every worker of a TPU VM slice, where this repository lies in ~/date_jax; JAX finds the hosts.
#   TPU=my-slice ZONE=us-east5-a bash launch/tpu_vm.sh --config=configs/pgda.py:files,swin_b --workdir=/shared/runs/one ...
#   TPU=my-slice ZONE=us-east5-a bash launch/tpu_vm.sh --dry-run --config=...     # prints the command only
# --workdir and the data have to lie on a file system that all workers mount.
set -eu
dry=; [ "${1:-}" = --dry-run ] && dry=1 && shift
[ -n "${TPU:-}" ] && [ -n "${ZONE:-}" ] || { echo "error: name the slice: TPU=<name> ZONE=<zone> bash launch/tpu_vm.sh ..." >&2; exit 2; }
case " $* " in
  *" --workdir="*) ;;
  *) echo "error: give a --workdir=<folder> that all workers share" >&2; exit 2 ;;
esac
job=$(printf ' %q' "$@")
remote="cd ~/date_jax && bash launch/setup.sh && .venv/bin/pip install -q 'jax[tpu]' && "
remote+="DATE_JAX_CACHE=\${DATE_JAX_CACHE:-\$HOME/.cache/date_jax} bash launch/again.sh .venv/bin/python -m date_jax.main$job"
command=(gcloud compute tpus tpu-vm ssh "$TPU" "--zone=$ZONE" --worker=all "--command=$remote")
if [ -n "$dry" ]; then printf '%q ' "${command[@]}"; echo; exit; fi
exec "${command[@]}"
