"""What do several runs show together? Studies over seeds, amounts of training data and networks, and their tables."""
