"""Cached ears as batches, and what is done to a batch on the device: window and augmentation."""
