"""Code of the user's own, named by an import path or handed over from Python: networks, training functions, data sets."""
