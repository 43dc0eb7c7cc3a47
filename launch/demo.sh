#!/usr/bin/env bash
# Sets up the environment and runs the main job. Arguments go to it: bash launch/demo.sh --config.method=source_only
set -eu
. "$(dirname "$0")/help.sh"
. "$(dirname "$0")/setup.sh"
case " $* " in
  *" --config="* | *" --config "*) ;;
  *) set -- --config=configs/pgda.py "$@" ;;
esac
exec "$python" -m date_jax.main "$@"
