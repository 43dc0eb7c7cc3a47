"""Measures and sheets of pictures that several systems share."""
