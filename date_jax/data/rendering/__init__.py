"""The embedded shop: products, pictures and titles, drawn from a seed."""
