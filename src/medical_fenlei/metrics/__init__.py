"""Numbers that say how good scores are, with intervals that respect patients. NumPy only."""
