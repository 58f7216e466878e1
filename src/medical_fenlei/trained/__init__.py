"""What does a trained network say of an ear? A checkpoint, opened, with its calibration and the ears of a set."""
