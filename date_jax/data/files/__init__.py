"""Readers of your own and of published files."""
