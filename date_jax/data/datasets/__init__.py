"""What is prepared as TFDS data sets, a builder for each source."""
