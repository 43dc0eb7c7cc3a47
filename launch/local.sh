#!/usr/bin/env bash
# Runs the main job as several processes of this machine, over loopback, as so many hosts would:
#   bash launch/local.sh 2 --config=configs/pgda.py --workdir=runs/two
#   bash launch/local.sh --dry-run 2 --config=configs/pgda.py        # prints the commands only
#   bash launch/local.sh 2 embed --workdir=runs/one --catalogue=offers.csv --out=vectors       # or another command than main
# Ctrl-C and SIGTERM ask all of them to save and leave. The exit code is that of the last one that failed.
set -eu
. "$(dirname "$0")/help.sh"
dry=; [ "${1:-}" = --dry-run ] && dry=1 && shift
count=${1:-}
case $count in
  '' | *[!0-9]* | 0) echo "error: how many processes? e.g. bash launch/local.sh 2 --config=configs/pgda.py" >&2; exit 2 ;;
esac
shift
module=main
case ${1:-} in '' | -*) ;; *) module=$1; shift ;; esac
if [ -n "$dry" ]; then python=${VENV:-.venv}/bin/python; else . "$(dirname "$0")/setup.sh"; fi
# Several processes cannot share one accelerator.
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
port=${PORT:-$((20000 + RANDOM % 10000))}

pids=()
heard=
trap 'heard=1; [ ${#pids[@]} -eq 0 ] || kill -TERM "${pids[@]}" 2>/dev/null || true' INT TERM
for ((index = 0; index < count; index++)); do
  command=("$python" -m "date_jax.$module" "$@" "--coordinator=127.0.0.1:$port" "--process_count=$count" "--process_index=$index")
  if [ -n "$dry" ]; then printf '%q ' "${command[@]}"; echo; continue; fi
  "${command[@]}" &
  pids+=($!)
done

status=0
for pid in ${pids[@]+"${pids[@]}"}; do
  code=0; wait "$pid" || code=$?
  # A signal ends the wait early; the process is then still saving, and its own code comes with the next one.
  while [ -n "$heard" ]; do heard=; code=0; wait "$pid" || code=$?; done
  [ "$code" -eq 0 ] || status=$code
done
exit "$status"
