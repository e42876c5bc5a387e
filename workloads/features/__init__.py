"""Jobs of kind `features`: they rank the features of a data set without its labels."""
