"""The input pipeline: from files or rendered pictures to batches."""
