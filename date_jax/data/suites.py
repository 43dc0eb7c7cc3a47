"""The command `python -m date_jax.data.suites`; its code is in `rendering.suites`."""

from date_jax.data.rendering.suites import main

if __name__ == "__main__":
    main()
