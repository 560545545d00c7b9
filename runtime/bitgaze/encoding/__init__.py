"""Images -> codes: reading images, a model's contract, and the session that runs it."""
