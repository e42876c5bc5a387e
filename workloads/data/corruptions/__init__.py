"""Corruptions of images at five severities, computed in batches on the device of the images."""
