"""Analyses of a whole study beyond the comparison of settings: importances, aggregates, targets, variances and fronts."""
