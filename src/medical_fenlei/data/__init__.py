"""How do ears reach the network? Cached ears as batches, windowed and augmented on the device."""
