#!/usr/bin/env bash
# Builds the pages of docs/, README.md and their like as HTML; a broken link is an error. Arguments go to Sphinx.
#   bash launch/docs.sh            # then open docs/_build/html/docs/index.html
set -eu
. "$(dirname "$0")/help.sh"
. "$(dirname "$0")/setup.sh"
"$python" -m sphinx -W --keep-going -q -E -b html -c docs "$@" . docs/_build/html
echo "docs/_build/html/docs/index.html"
