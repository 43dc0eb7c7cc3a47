#!/usr/bin/env bash
# Runs the main job through SkyPilot on one rented machine with all its accelerators, this folder as the working folder.
# Where the machine is taken away, SkyPilot rents another one and the job goes on from its checkpoints in the bucket.
#   BUCKET=s3://my-bucket bash launch/sky.sh --config=configs/pgda.py:files,swin_b --workdir=/runs/one ...
# --dry-run prints the task only. Several machines would need a file system that all of them see alike, which a bucket
# is not.
set -eu
. "$(dirname "$0")/help.sh"
. "$(dirname "$0")/arguments.sh"
cd "$(dirname "$0")/.."
[ -n "${BUCKET:-}" ] || { echo "error: name a bucket for the runs: BUCKET=s3://<name> bash launch/sky.sh ..." >&2; exit 2; }
task() {
  cat << YAML
name: date-jax
workdir: .
resources:
  accelerators: ${ACCELERATORS:-H100:8}
file_mounts:
  /runs: {source: "${BUCKET}", mode: MOUNT_CACHED}
setup: |
  bash launch/setup.sh
  .venv/bin/pip install -q "jax[cuda13]"
run: |
  export DATE_JAX_CACHE=\$HOME/.cache/date_jax JAX_COMPILATION_CACHE_DIR=/runs/compiled JAX_PLATFORMS=cuda
  exec bash launch/again.sh .venv/bin/python -m date_jax.main$words
YAML
}
if [ -n "$dry" ]; then task; exit; fi
file=$(mktemp --suffix=.yaml); trap 'rm -f "$file"' EXIT
task > "$file"
sky jobs launch --yes "$file"
