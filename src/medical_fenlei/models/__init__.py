"""Which networks are there? From a windowed ear volume to logits, an embedding and attention over the slices."""
