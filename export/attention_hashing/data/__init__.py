"""Labelled images: where they come from, and which of them train, query and are searched."""
