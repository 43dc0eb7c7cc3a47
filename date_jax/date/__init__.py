"""DATE (2304.03669): product retrieval, grounding, and grounding in a second domain."""
