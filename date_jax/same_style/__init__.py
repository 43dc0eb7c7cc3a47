"""Retrieval of same-style products among offers, by picture, words or both (2302.05093)."""
