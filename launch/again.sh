#!/usr/bin/env bash
# Runs a command again as long as it exits with 75 (preempted, all saved); any other code is its answer.
#   bash launch/again.sh .venv/bin/python -m date_jax.main --config=configs/pgda.py --workdir=runs/one
# SIGTERM goes to the command and ends the repetition: then the machine itself is going away.
set -u
. "$(dirname "$0")/help.sh"
child='' heard='' stopped=
trap 'heard=1 stopped=1; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' TERM INT
while :; do
  "$@" &
  child=$!
  [ -z "$stopped" ] || kill -TERM "$child" 2>/dev/null  # the signal came before there was a child to tell
  code=0; wait "$child" || code=$?
  # A signal ends the wait early: the command is then still saving, and its own code comes with the next one.
  while [ -n "$heard" ]; do heard=; code=0; wait "$child" || code=$?; done
  [ "$code" -eq 75 ] && [ -z "$stopped" ] || exit "$code"
  echo "again: exit code 75, starting the same command" >&2
done
