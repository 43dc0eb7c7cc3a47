#!/usr/bin/env bash
# Runs the main job through SkyPilot on rented machines, this folder as the working folder; a preempted job is recovered
# and goes on from its checkpoints in the bucket.
#   BUCKET=s3://my-bucket NODES=2 bash launch/sky.sh --config=configs/pgda.py:files,swin_b --workdir=/runs/one ...
#   BUCKET=s3://my-bucket bash launch/sky.sh --dry-run --config=...      # prints the task only
set -eu
cd "$(dirname "$0")/.."
dry=; [ "${1:-}" = --dry-run ] && dry=1 && shift
[ -n "${BUCKET:-}" ] || { echo "error: name a bucket for the runs: BUCKET=s3://<name> bash launch/sky.sh ..." >&2; exit 2; }
task() {
  cat << YAML
name: date-jax
workdir: .
num_nodes: ${NODES:-1}
resources:
  accelerators: ${ACCELERATORS:-H100:8}
file_mounts:
  /runs: {source: "${BUCKET}", mode: MOUNT}
setup: |
  bash launch/setup.sh
  .venv/bin/pip install -q "jax[cuda13]"
run: |
  export DATE_JAX_CACHE=\$HOME/.cache/date_jax
  head=\$(echo "\$SKYPILOT_NODE_IPS" | head -n1)
  exec bash launch/again.sh .venv/bin/python -m date_jax.main$(printf ' %q' "$@") --coordinator=\$head:8476 --process_count=\$SKYPILOT_NUM_NODES --process_index=\$SKYPILOT_NODE_RANK
YAML
}
if [ -n "$dry" ]; then task "$@"; exit; fi
task "$@" > .sky.yaml
exec sky jobs launch --yes .sky.yaml
