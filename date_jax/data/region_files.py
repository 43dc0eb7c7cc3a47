"""The command `python -m date_jax.data.region_files`; its code is in `files.region_files`."""

import sys

from date_jax.data.files.region_files import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
