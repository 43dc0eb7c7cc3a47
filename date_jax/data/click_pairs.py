"""The command `python -m date_jax.data.click_pairs`; its code is in `clicks.mining`."""

import sys

from date_jax.data.clicks.mining import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
