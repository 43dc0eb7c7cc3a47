"""The parts that surround a run: its folder, checkpoints, progress, hosts and processes."""
