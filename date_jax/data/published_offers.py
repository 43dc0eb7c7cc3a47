"""The command `python -m date_jax.data.published_offers`: see `files.published_offers`."""

import sys

from date_jax.data.files.published_offers import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
