"""The command `python -m date_jax.data.click_trials`; its code is in `clicks.trials`."""

import sys

from date_jax.data.clicks.trials import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
