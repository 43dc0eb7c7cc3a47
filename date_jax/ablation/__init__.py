"""Tables and charts that compare finished runs."""
