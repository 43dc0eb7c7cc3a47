"""The command `python -m date_jax.data.shop`; its code is in `rendering.shop_pictures`."""

import sys

from date_jax.data.rendering.shop_pictures import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
