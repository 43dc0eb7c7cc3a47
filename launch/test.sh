#!/usr/bin/env bash
# Sets up the environment and runs every check and test. Arguments go to pytest: bash launch/test.sh tests/test_boxes.py
set -eu
. "$(dirname "$0")/help.sh"
. "$(dirname "$0")/setup.sh"
bash launch/check.sh
# One worker a core, at most 4: each holds a JAX and most of them a TensorFlow (about 1.5 GB).
cores=$("$python" -c 'import os; print(min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()))')
# loadfile: a file's tests share what its fixtures rendered and compiled; in the order of tests/conftest.py.
exec "$python" -m pytest -n "$cores" --dist loadfile --no-loadscope-reorder --durations=20 --durations-min=10 "$@"
