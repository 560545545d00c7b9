"""The quality of codes: counts by distance, metrics, and the report of evaluate.py."""
