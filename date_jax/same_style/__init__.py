"""Same-style retrieval (2302.05093): a picture, words or both, found again among other offers."""
