"""Chooses which of the prunable weights of a model are pruned, by patterns over their names."""

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from torch import nn

from pruneyard.workloads.masks.masks import (
    CHOSEN,
    all_prunable_layers,
    layers_to_choose_from,
    prunable_layers,
)
from pruneyard.workloads.user_code.nearest import nearest


def choose_prunable(model: nn.Module, patterns: Sequence[str], *, masked: Collection[str] = ()) -> None:
    """Makes only some weights of a model prunable; the others stay dense and do not count in its density.

    patterns: names as `fnmatch` matches them, applied in order; `!` excludes what a pattern matches. If the first one excludes,
        all weights are chosen before it. No patterns choose all weights, or leave the model's own choice.
    masked: weights that are pruned already. Earlier versions also pruned frozen weights: if there are any of these, they count.

        choose_prunable(model, ["*.weight", "!head.*"])

    Embeddings and frozen weights, which require no gradient, are no part of all weights: a pattern chooses them if it matches
    nothing else, as `tables.*` may.

    Raises `ValueError` for a pattern that matches no prunable weight, and if none is left.
    """
    chosen = _chosen(model, patterns, frozen=frozen_weights(model))
    if chosen is not None and not chosen.issuperset(masked):
        chosen = _chosen(model, patterns, frozen=[])
    if chosen is not None:
        setattr(model, CHOSEN, chosen)


def _chosen(model: nn.Module, patterns: Sequence[str], *, frozen: Sequence[str]) -> frozenset[str] | None:
    """Returns the names of the weights that are chosen; None to leave the model as it is."""
    names = [name for name in all_prunable_layers(model) if name not in frozen]
    if not patterns:
        return frozenset(names) if frozen and not hasattr(model, CHOSEN) else None
    others = [name for name in layers_to_choose_from(model) if name not in names]
    chosen = set(names) if patterns[0].startswith("!") else set()
    for place, pattern in enumerate(patterns):
        is_excluding, stem = pattern.startswith("!"), pattern.removeprefix("!")
        matched = {name for name in (*names, *((*chosen, *frozen) if is_excluding else ())) if fnmatchcase(name, stem)}
        if not is_excluding and not matched:
            matched = {name for name in others if fnmatchcase(name, stem)}
        if not matched:
            raise ValueError(f"prunable[{place}] is {pattern!r}, which matches {_mismatch(model, pattern, names)}")
        chosen = chosen - matched if is_excluding else chosen | matched
    if not chosen:
        raise ValueError(f"prunable is {list(patterns)}, which leaves no weight to prune of {listed(names, most=8)}")
    return frozenset(chosen)


def check_prunable(model: nn.Module) -> None:
    """Raises `ValueError` for a model without any weight to prune."""
    if prunable_layers(model):
        return
    others = list(layers_to_choose_from(model))
    remedy = f", or name some of {listed(others)} in prunable" if others else ""
    trained = " that is trained" if frozen_weights(model) else ""
    raise ValueError(f"model: has no convolution, linear or attention weight to prune{trained}; choose method dense{remedy}")


def frozen_weights(model: nn.Module) -> list[str]:
    """Returns the names of the weights that could be pruned and require no gradient, as a part that is not trained."""
    return [name for name in all_prunable_layers(model) if not model.get_parameter(name).requires_grad]


def _mismatch(model: nn.Module, pattern: str, names: list[str]) -> str:
    others = [name for name, _ in model.named_parameters() if fnmatchcase(name, pattern.removeprefix("!"))]
    found = f"only {listed(others, most=8)}, which cannot be pruned" if others else "no weight"
    able = f"{listed(names, most=8)}{nearest(pattern, names)}"
    return f"{found}; weights of convolutions, linear layers and attention can be pruned: {able}"


def listed(names: Sequence[str], *, most: int = 4) -> str:
    """Returns the first names of weights, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
