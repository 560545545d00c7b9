"""Encoding: read an image, run a model on it, get its code."""
