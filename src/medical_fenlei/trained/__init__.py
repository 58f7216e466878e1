"""What does a trained network predict? A checkpoint, opened, with its calibration and the ears of a set."""
