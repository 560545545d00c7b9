"""What compare.py, ablate.py and the table scripts measure for docs/results.md."""
