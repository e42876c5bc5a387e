"""Distributions of a global density over layers (uniform, ER, ERK), in exact whole numbers of weights."""

import fnmatch
import math
from collections.abc import Callable, Collection, Mapping, Sequence

from pruneyard.workloads.user_code.nearest import nearest

Shapes = Mapping[str, tuple[int, ...]]


def uniform(shapes: Shapes, density: float) -> dict[str, float]:
    """Returns the same density for every layer."""
    return dict.fromkeys(shapes, density)


def er(shapes: Shapes, density: float) -> dict[str, float]:
    """Returns Erdos-Renyi densities, in proportion to (n_in + n_out) / (n_in * n_out).

    Reference: Mocanu et al. 2018, Nature Communications 9, 2383.
    """
    raw = {name: sum(shape[:2]) / math.prod(shape[:2]) for name, shape in shapes.items()}
    return _share(shapes, density, raw)


def erk(shapes: Shapes, density: float) -> dict[str, float]:
    """Returns Erdos-Renyi-Kernel densities, in proportion to the sum over the product of all dimensions of the weight.

    Reference: Evci et al. 2020, Rigging the Lottery, section 3 (arXiv:1911.11134).
    """
    raw = {name: sum(shape) / math.prod(shape) for name, shape in shapes.items()}
    return _share(shapes, density, raw)


RULES: Mapping[str, Callable[[Shapes, float], dict[str, float]]] = {"uniform": uniform, "er": er, "erk": erk}


def dense_layers(names: Sequence[str], patterns: Collection[str]) -> set[str]:
    """Returns the layers that `patterns` keep dense: shell patterns over layer or parameter names, or the word `first`.

    `names` are parameter names in module order. Raises `ValueError` for a pattern that matches nothing.
    """
    found: set[str] = set()
    for pattern in patterns:
        matches = names[:1] if pattern == "first" else [name for name in names if _matches(name, pattern)]
        if not matches:
            layers = dict.fromkeys(["first", *(name.rpartition(".")[0] for name in names), *names])
            rule = f"it must match one of {', '.join(names)}{nearest(pattern, layers)}"
            raise ValueError(f"keep_dense has {pattern!r}; {rule}")
        found.update(matches)
    return found


def active_counts(
    shapes: Shapes, *, density: float, rule: str, keep_dense: Collection[str] = ()
) -> dict[str, int]:
    """Returns the number of active weights of every sparse layer; their sum is exactly round(density * weights of these layers).

    Layers of `keep_dense` do not count for the result and both sums. Every other layer keeps at least one
    weight. Raises `ValueError` for a density with fewer weights than layers.
    """
    dense = dense_layers(list(shapes), keep_dense)
    sparse = {name: shape for name, shape in shapes.items() if name not in dense}
    if not sparse:
        raise ValueError(f"keep_dense is {list(keep_dense)}; it must leave one of {', '.join(shapes)} sparse")
    return _round_to_total(sparse, RULES[rule](sparse, density), density)


def proportional_counts(
    total: int, *, shares: Mapping[str, float], capacities: Mapping[str, int]
) -> dict[str, int]:
    """Returns whole numbers with the sum `total`, in proportion to `shares` but for an equal part of the excess over capacities.

    What exceeds the capacity of a layer is shared out equally among the layers that have room. If all shares are zero, capacities
    are used as shares.
    """
    assert 0 <= total <= sum(capacities.values())
    parts: Mapping[str, float] = shares if any(shares.values()) else capacities
    whole = sum(parts.values())
    ideal = {name: total * (part / whole) if whole else 0.0 for name, part in parts.items()}
    amounts: dict[str, float] = {}
    # The layers that fill up first come first; each one that does passes its excess on to all that follow.
    rest = sorted(ideal, key=lambda name: capacities[name] - ideal[name])
    while rest:
        added = (total - sum(amounts.values()) - sum(ideal[name] for name in rest)) / len(rest)
        if ideal[rest[0]] + added <= capacities[rest[0]]:
            amounts |= {name: ideal[name] + added for name in rest}
            break
        amounts[rest[0]] = capacities[rest[0]]
        del rest[0]
    counts = {name: math.floor(amounts[name]) for name in shares}
    by_remainder = sorted(shares, key=lambda name: counts[name] - amounts[name])  # stable: ties by order
    for name in (name for name in by_remainder if counts[name] < capacities[name]):
        if sum(counts.values()) == total:
            break
        counts[name] += 1
    assert sum(counts.values()) == total
    return counts


def _share(shapes: Shapes, density: float, raw: Mapping[str, float]) -> dict[str, float]:
    """Returns densities in proportion to `raw`; a layer that would exceed 1 is dense and the others share the rest."""
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    budget = density * sum(sizes.values())
    full: set[str] = set()
    while len(full) < len(sizes):
        rest = [name for name in sizes if name not in full]
        left = budget - sum(sizes[name] for name in full)
        scale = left / sum(raw[name] * sizes[name] for name in rest)
        over = {name for name in rest if scale * raw[name] > 1}
        if not over:
            return {name: 1.0 if name in full else scale * raw[name] for name in sizes}
        full |= over
    return dict.fromkeys(sizes, 1.0)


def _round_to_total(shapes: Shapes, densities: Mapping[str, float], density: float) -> dict[str, int]:
    """Returns whole numbers by the largest-remainder method, with at least one weight per layer."""
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    num_weights = sum(sizes.values())
    total = round(density * num_weights)
    if total < len(sizes):
        raise ValueError(
            f"density is {density}; it must leave a weight in each of {len(sizes)} layers,"
            f" so at least {len(sizes) / num_weights:.3g}"
        )
    ideal = {name: densities[name] * size for name, size in sizes.items()}
    counts = {name: min(size, max(1, math.floor(ideal[name]))) for name, size in sizes.items()}
    while missing := total - sum(counts.values()):
        one = 1 if missing > 0 else -1
        free = [name for name in sizes if 1 <= counts[name] + one <= sizes[name]]
        counts[max(free, key=lambda name: one * (ideal[name] - counts[name]))] += one
    return counts


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name.rpartition(".")[0], pattern)
