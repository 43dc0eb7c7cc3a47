"""The command `python -m date_jax.data.suites`; its code is in `rendering.post_pictures`."""

import sys

from date_jax.data.rendering.post_pictures import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
