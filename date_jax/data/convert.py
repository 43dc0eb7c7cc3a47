"""The command `python -m date_jax.data.convert`; its code is in `conversion.main`."""

import sys

from date_jax.data.conversion.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
