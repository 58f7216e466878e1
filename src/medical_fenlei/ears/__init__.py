"""From a series to ear volumes: where the ear is, which slices, which voxels, and the cache that keeps them."""
