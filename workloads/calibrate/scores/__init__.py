"""OOD scores of inputs, higher for in-distribution ones: the plug-ins of the family `calibrate.scores`."""
