"""Where are the structures of an ear? A small 3D network that has learnt from drawn ears, and its masks."""
