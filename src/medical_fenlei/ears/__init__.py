"""Where are the ears in a series? Find the ears, choose slices, resample voxels, and store the result in a cache."""
