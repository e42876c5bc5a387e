"""Proposes settings: Optuna samplers, population-based training (PBT) and PB2."""
