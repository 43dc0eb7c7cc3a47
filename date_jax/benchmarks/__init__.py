"""What `date_jax.benchmark` measures, a file for each mode. All data are made here."""
