"""Folders of images -> gallery, incrementally."""
