"""Damaged files of every kind that is read, and what may come of them: `make fuzz`."""
