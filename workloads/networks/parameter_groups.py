"""Parameter groups: with and without weight decay, and by factors of the learning rate."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from pruneyard.workloads.interfaces import NamedParameters
from pruneyard.workloads.user_code.nearest import nearest

LrFactors = tuple[tuple[str, float], ...]
"""Patterns of parameter names, as `fnmatch` matches them, and the factors of the learning rate of these parameters."""


def check_lr_factors(factors: LrFactors) -> None:
    """Raises `ValueError` for a factor below 0."""
    for place, (pattern, factor) in enumerate(factors):
        if not factor >= 0:
            raise ValueError(f"lr_factors[{place}] is [{pattern}, {factor}]; the factor must be 0 or more")


def check_patterns(factors: LrFactors, names: Sequence[str]) -> None:
    """Raises `ValueError` for a pattern that matches none of the parameters."""
    for place, (pattern, _) in enumerate(factors):
        if not any(fnmatchcase(name, pattern) for name in names):
            listed = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
            rule = f"which matches no parameter of {listed}{nearest(pattern, names)}"
            raise ValueError(f"optimizer.lr_factors[{place}] is {pattern!r}, {rule}")


def parameter_groups(
    parameters: NamedParameters, *, weight_decay: float, decay_bias_and_norm: bool, lr_factors: LrFactors = ()
) -> list[dict[str, Any]]:
    """Returns optimizer groups.

    decay_bias_and_norm: if false, tensors of fewer than two dimensions have no weight decay.
    lr_factors: the first pattern that matches a parameter gives the factor of its learning rate, stored as `lr_factor` in its
        group; other parameters have 1. Raises `ValueError` for a pattern that matches no parameter.
    """
    named = list(parameters)
    check_patterns(lr_factors, [name for name, _ in named])
    groups = []
    for factor in dict.fromkeys([1.0, *(factor for _, factor in lr_factors)]):
        tensors = [p for name, p in named if _factor_of(name, lr_factors) == factor]
        extra = {"lr_factor": factor} if lr_factors else {}
        groups += _decay_groups(tensors, extra, weight_decay=weight_decay, decay_bias_and_norm=decay_bias_and_norm)
    return groups


def _decay_groups(
    tensors: Sequence[nn.Parameter], extra: Mapping[str, Any], *, weight_decay: float, decay_bias_and_norm: bool
) -> list[dict[str, Any]]:
    decayed = [p for p in tensors if decay_bias_and_norm or p.ndim > 1]
    undecayed = [p for p in tensors if not decay_bias_and_norm and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": undecayed, "weight_decay": 0.0}]
    return [{**group, **extra} for group in groups if group["params"]]


def _factor_of(name: str, factors: LrFactors) -> float:
    return next((factor for pattern, factor in factors if fnmatchcase(name, pattern)), 1.0)
