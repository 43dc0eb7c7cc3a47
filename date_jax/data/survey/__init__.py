"""A look at a user's own data before anything is trained on it."""
