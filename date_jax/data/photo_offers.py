"""The command `python -m date_jax.data.photo_offers`; its code is in `conversion.photo_offers`."""

import sys

from date_jax.data.conversion.photo_offers import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
