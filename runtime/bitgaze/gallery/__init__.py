"""Galleries: one facade (gallery.py) over its operations, over one store of items and codes."""
