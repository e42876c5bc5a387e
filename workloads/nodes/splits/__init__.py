"""Which nodes are trained on, held out and tested, one rule per file."""
