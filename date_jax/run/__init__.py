"""What surrounds a run: its folder, checkpoints, progress, hosts and processes."""
