"""The command `python -m date_jax.data.baselines`; its code is in `survey.baselines`."""

import sys

from date_jax.data.survey.baselines import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
