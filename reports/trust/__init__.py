"""What calibrate jobs found: calibrators beside one another, detection of unknown inputs, sets of classes."""
