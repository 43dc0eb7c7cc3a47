"""The command `python -m date_jax.data.suites`; its code is in `rendering.suites`."""

import sys

from date_jax.data.rendering.suites import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
