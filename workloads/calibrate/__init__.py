"""Jobs of kind `calibrate`: post-hoc calibration, uncertainty, out-of-distribution detection and prediction sets."""
