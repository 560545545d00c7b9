"""The measurements for docs/results.md: comparisons, ablations, and their tables."""
