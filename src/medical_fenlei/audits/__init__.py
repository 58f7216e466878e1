"""Is it the disease that the network sees? Questions that a good figure has to stand, each with a verdict."""
