"""The measurements of `date_jax.benchmark`, a file for each mode. All data are made here."""
