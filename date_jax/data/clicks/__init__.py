"""Pairs of offers of one product, from click logs."""
