"""`bitgaze serve`: a page to search a gallery by dropping an image, and a JSON API.

run.py listens, app.py routes, the other modules answer. Requires the extra `serve`.
"""
