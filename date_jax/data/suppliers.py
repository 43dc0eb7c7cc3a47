"""The command `python -m date_jax.data.suppliers`; its code is in `rendering.offer_pictures`."""

import sys

from date_jax.data.rendering.offer_pictures import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
