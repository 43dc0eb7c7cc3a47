"""TFDS data sets of prepared records, with a builder for each source."""
