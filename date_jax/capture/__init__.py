"""CAPTURE (2107.14572): every product of a picture that shows several."""
