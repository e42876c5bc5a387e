"""Decides which trials stop early or pause: ASHA, the median rule and HyperBand."""
