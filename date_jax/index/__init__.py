"""The vectors of a catalogue in a folder: how they come there, and exact search among them."""
