"""The command `python -m date_jax.data.simulated_clicks`; its code is in `clicks.simulated`."""

from date_jax.data.clicks.simulated import main

if __name__ == "__main__":
    main()
