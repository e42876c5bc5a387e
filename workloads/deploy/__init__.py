"""Finished networks made useful: exported to files, run by sparse kernels, and timed against their dense twins."""
