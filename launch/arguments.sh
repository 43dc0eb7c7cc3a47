# shellcheck shell=bash
# Sourced by the scripts for machines elsewhere, with their arguments: leaves the job's in "${job[@]}", its words as a shell
# reads them in $words, and $dry set after --dry-run, wherever it stands.
dry='' words='' shared='' job=()
for argument in "$@"; do
  case $argument in
    --dry-run) dry=1; continue ;;
    --workdir=?*) shared=1 ;;
  esac
  job+=("$argument") words+=$(printf ' %q' "$argument")
done
# Without one each machine would write its own run on its own disk, and begin anew after every restart.
[ -n "$shared" ] || { echo "error: give a --workdir=<folder> that outlives the machines and that all of them share" >&2; exit 2; }
whole() { case ${!1:-1} in *[!0-9]* | 0) echo "error: $1=${!1}: must be a positive whole number" >&2; exit 2 ;; esac; }
