"""Does the network detect the disease? Questions that good figures have to withstand, each with a verdict."""
