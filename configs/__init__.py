"""The configs: a file for each task, and their sizes."""
