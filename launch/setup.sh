# shellcheck shell=bash
# Sourced by the other scripts: goes to the project's root, makes the environment that requirements.lock describes, and
# leaves its interpreter in $python. Does nothing when the environment already matches the lock file.
# VENV=<folder> puts the environment elsewhere than .venv; PYTHON=<program> chooses the interpreter.
. "$(dirname "${BASH_SOURCE[0]}")/help.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 5
venv=${VENV:-.venv}
python=$venv/bin/python

fail() { printf 'error: %s\n' "$@" >&2; exit 5; }

# A name on PATH proves nothing (a pyenv shim may stand for a version that is not active), so each is run.
# 3.11 comes first because the numbers of docs/ were measured with it.
found_python() {
  local candidate
  for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      echo "$candidate"; return
    fi
  done
  fail "no Python 3.11, 3.12 or 3.13 among: ${PYTHON:-python3.11 python3.12 python3.13 python3}" \
    "install one, or name it: PYTHON=/path/to/python3.11 bash launch/demo.sh"
}

install() { "$python" -m pip install -qq --disable-pip-version-check --require-hashes -r requirements.lock; }

set_up() {
  local lock stamp=$venv/lock.sha256 base start=$SECONDS
  lock=$(cat requirements.lock | { sha256sum 2>/dev/null || shasum -a 256; })
  [ -x "$python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$lock" ] && return
  if ! "$python" -c '' 2>/dev/null; then
    base=$(found_python) || exit 5
    echo "setup: making $venv with $("$base" --version 2>&1)" >&2
    "$base" -m venv --clear "$venv" || fail "$base cannot make a virtual environment" "on Debian and Ubuntu: apt install python3-venv"
  fi
  echo "setup: installing $(grep -c == requirements.lock) packages from requirements.lock into $venv (2.5 GB, about a minute)" >&2
  install || { echo "setup: that failed; once more" >&2; sleep 5; install; } ||
    fail "the packages of requirements.lock could not be installed (pip's own message is above)" "check the network and the space on this disk, then run the same command again"
  echo "$lock" > "$stamp"
  echo "setup: done in $((SECONDS - start)) s" >&2
}

# The package itself, as a link to this folder: scripts elsewhere can import it, and `date_jax` lists the commands.
link() {
  [ -x "$venv/bin/date_jax" ] && return
  "$python" -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e . 2>/dev/null ||
    echo "setup: date_jax can be imported from this folder only" >&2
}

set_up
link
