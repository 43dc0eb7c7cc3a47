"""How the shop's pictures are drawn and what is said of them; `data/shop.py` is the door."""
