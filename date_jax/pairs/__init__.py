"""Losses and searches over all pairs of large sets, each device with its share."""
