"""Sync: makes a gallery match folders of images, incrementally."""
