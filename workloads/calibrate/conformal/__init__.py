"""Rules that turn probabilities into sets of classes that cover the truth: the plug-ins of the family `calibrate.conformal`."""
