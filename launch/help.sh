# shellcheck shell=bash
# Sourced first by the scripts that people start: --help prints the comment that such a script opens with.
case ${1:-} in
  --help | -h) awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"; exit ;;
esac
