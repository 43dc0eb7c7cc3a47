"""Tables, charts and records that compare finished runs."""
