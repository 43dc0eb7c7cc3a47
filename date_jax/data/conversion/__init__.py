"""Other programs' annotations of pictures, written as this project's JSON Lines."""
