"""The command `python -m date_jax.data.simulated_clicks`; its code is in `clicks.simulated_log`."""

import sys

from date_jax.data.clicks.simulated_log import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
