"""The command `python -m date_jax.data.check`; its code is in `survey.main`."""

import sys

from date_jax.data.survey.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
