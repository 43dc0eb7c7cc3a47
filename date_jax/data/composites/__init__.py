"""Composites: products cut out of the source's plain pages, pasted onto other pictures."""
