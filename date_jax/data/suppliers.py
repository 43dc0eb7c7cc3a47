"""The command `python -m date_jax.data.suppliers`; its code is in `rendering.suppliers`."""

import sys

from date_jax.data.rendering.suppliers import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
