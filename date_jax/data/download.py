"""The command `python -m date_jax.data.download`; its code is in `files.download`."""

import sys

from date_jax.data.files.download import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
