"""The figures of the page: one file per figure, each drawing what it can from a study."""
