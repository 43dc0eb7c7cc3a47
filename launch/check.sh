#!/usr/bin/env bash
# The one list of static checks, for launch/test.sh, the pre-commit hook and you. Runs all, fails if one fails.
set -u
. "$(dirname "$0")/help.sh"
cd "$(dirname "$0")/.." || exit 5
python=${VENV:-.venv}/bin/python
[ -x "$python" ] || { echo "error: no environment yet: bash launch/test.sh makes it" >&2; exit 5; }
status=0
check() { echo "check: $*" >&2; "$python" -m "$@" || status=1; }

check ruff check .
check ruff format --check .
check mypy
# The pages: a link that leads nowhere is an error. -E: what an earlier build warned of is said again.
check sphinx -W --keep-going -q -E -b html -c docs . docs/_build/html
exit $status
