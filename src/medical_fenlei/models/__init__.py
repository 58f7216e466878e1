"""Networks from a windowed ear volume to logits, an embedding and, where there is one, attention over its slices."""
