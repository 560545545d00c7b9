"""How good codes are: counts by distance, metrics, and the report that evaluate.py writes."""
