"""Masks: the prunable weights, random masks, selection by score, and drop-and-grow.

A mask is a boolean tensor of its weight's shape, True = active, one per weight, by parameter name. All counts
are exact. Random choices come from one CPU generator, so a GPU holds the same masks as a CPU.
"""

import hashlib
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pruneyard.workloads.masks.sparse_index import Mask, SparseIndex, full_mask

SAMPLE = 4096  # least size of the sample that bounds a selection


class NonFiniteScoresError(ValueError):
    """A score is NaN or infinite, so that the weights cannot be ranked."""


CHOSEN = "pruneyard_prunable"
"""The attribute of a model with the names of the weights that are pruned, where only some of the prunable ones are."""


def prunable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Returns the module that owns each prunable weight, by parameter name in module order; a shared weight occurs once.

    Where `choose_prunable` has chosen some weights of the model, only these count.
    """
    chosen = getattr(model, CHOSEN, None)
    if chosen is None:
        return all_prunable_layers(model)
    return {name: layer for name, layer in layers_to_choose_from(model).items() if name in chosen}


def all_prunable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Returns the module that owns each weight that is pruned unless `choose_prunable` says otherwise.

    These are the weights, not the biases, of convolutions and linear layers, and the input projections of
    `nn.MultiheadAttention`. Norms and recurrent layers stay dense, and so do weights that a parametrisation computes.
    """
    return _owners(model, _prunable_parameters)


def layers_to_choose_from(model: nn.Module) -> dict[str, nn.Module]:
    """Returns `all_prunable_layers` and the embeddings, which are pruned only where `choose_prunable` chooses them."""
    return _owners(model, lambda module: ("weight",) if isinstance(module, nn.Embedding) else _prunable_parameters(module))


def _owners(model: nn.Module, parameters_of: Callable[[nn.Module], tuple[str, ...]]) -> dict[str, nn.Module]:
    """Returns the first module that has each of the named parameters, by the parameter's name in module order."""
    owners: dict[int, nn.Module] = {}
    for module in model.modules():
        for weight in map(module._parameters.get, parameters_of(module)):
            if weight is not None:
                owners.setdefault(id(weight), module)
    return {name: owners[id(weight)] for name, weight in model.named_parameters() if id(weight) in owners}


def prunable_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the weights of `prunable_layers` by parameter name."""
    return {name: model.get_parameter(name) for name in prunable_layers(model)}


def _prunable_parameters(module: nn.Module) -> tuple[str, ...]:
    """Returns the names of the parameters of a module that are prunable where it has them."""
    if isinstance(module, nn.MultiheadAttention):  # one projection of queries, keys and values, or three of different widths
        return "in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"
    return ("weight",) if isinstance(module, (_ConvNd, nn.Linear)) else ()


def random_subset(population: int, count: int, generator: torch.Generator) -> Tensor:
    """Returns `count` distinct indices below `population`, (count,) int64; every subset is equally likely."""
    seed = int(torch.randint(torch.iinfo(torch.int64).max, (), generator=generator))
    chosen = np.random.default_rng(seed).choice(population, count, replace=False, shuffle=False)
    return torch.from_numpy(chosen)


def random_masks(
    weights: Mapping[str, Tensor], counts: Mapping[str, int], *, generator: torch.Generator
) -> dict[str, Tensor]:
    """Returns uniformly random masks with exactly `counts[name]` active entries, on each weight's device."""
    masks = {}
    for name, count in counts.items():
        mask = torch.zeros(weights[name].numel(), dtype=torch.bool)
        mask[random_subset(mask.numel(), count, generator)] = True
        masks[name] = mask.reshape(weights[name].shape).to(weights[name].device)
    return masks


def full_masks(weights: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """Returns masks of ones for the named weights, on each weight's device, see `full_mask`."""
    return {name: full_mask(tuple(weights[name].shape), weights[name].device) for name in names}


def keep_largest(
    scores: Tensor, among: Tensor, *, count: int, generator: torch.Generator, layer: str
) -> Tensor:
    """Returns the mask of the `count` entries with the largest scores among the True entries of `among`.

    Entries that tie at the threshold are chosen at random, so that no index is favoured; without a tie
    the generator is not used. Raises `NonFiniteScoresError`, which names `layer`.
    """
    scores = scores.detach()
    if scores.dtype in (torch.float16, torch.bfloat16):
        scores = scores.float()
    check_finite(scores, layer)
    if count == 0:
        return torch.zeros_like(among)
    scores = torch.where(among.contiguous(), scores, -torch.inf)  # masks are contiguous, whatever layout scores have
    threshold = kth_largest(scores, count)
    assert threshold > -torch.inf, f"{layer} has fewer than {count} entries to keep"
    selected = scores >= threshold
    if int(torch.count_nonzero(selected)) == count:
        return selected
    tied = (scores == threshold).flatten().nonzero().squeeze(1)
    above = (scores > threshold).flatten()
    chosen = random_subset(len(tied), count - int(torch.count_nonzero(above)), generator)
    return above.index_fill_(0, tied[chosen.to(tied.device)], True).reshape(among.shape)


def keep_largest_overall(
    scores: Mapping[str, Tensor], among: Mapping[str, Tensor], *, count: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Returns masks of the `count` entries with the largest scores over all layers, at least one in each layer.

    Published code has no such minimum: there a layer may lose its last weight, which makes the output constant.
    """
    best = {n: keep_largest(scores[n], m, count=1, generator=generator, layer=n) for n, m in among.items()}
    others = {name: mask & ~best[name] for name, mask in among.items()}
    rest = keep_largest_together(scores, others, count=count - len(among), generator=generator)
    return {name: best[name] | mask for name, mask in rest.items()}


def keep_largest_together(
    scores: Mapping[str, Tensor], among: Mapping[str, Tensor], *, count: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Returns masks of the `count` entries with the largest scores over all layers; of a layer that may be none."""
    kept = keep_largest(
        torch.cat([scores[name].flatten() for name in among]),
        torch.cat([mask.flatten() for mask in among.values()]),
        count=count,
        generator=generator,
        layer=", ".join(among),
    )
    parts = torch.split(kept, [mask.numel() for mask in among.values()])
    return {name: part.reshape(among[name].shape) for name, part in zip(among, parts, strict=True)}


def keep_largest_by_scope(
    scores: Mapping[str, Tensor],
    among: Mapping[str, Tensor],
    *,
    scope: Literal["layer", "global"],
    counts: Mapping[str, int],
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Applies `keep_largest` with each layer's count, or `keep_largest_overall` with their sum."""
    if scope == "global":
        return keep_largest_overall(scores, among, count=sum(counts.values()), generator=generator)
    return {
        name: keep_largest(scores[name], mask, count=counts[name], generator=generator, layer=name)
        for name, mask in among.items()
    }


def drop_and_grow(
    mask: Tensor,
    *,
    drop_scores: Tensor,
    grow_scores: Tensor,
    num_moved: int,
    generator: torch.Generator,
    layer: str,
) -> Tensor:
    """Drops the `num_moved` active entries of smallest drop score, then grows as many of largest grow score.

    A dropped entry may grow again in the same update and then keeps its value and optimizer state. The
    number of active entries does not change. Raises `NonFiniteScoresError`, which names `layer`.
    Reference: Evci et al. 2020, Rigging the Lottery, section 3 (arXiv:1911.11134).
    """
    num_active = int(torch.count_nonzero(mask))
    if num_moved == 0 or num_active == mask.numel():
        return mask
    kept = keep_largest(drop_scores, mask, count=num_active - num_moved, generator=generator, layer=layer)
    return kept | keep_largest(grow_scores, ~kept, count=num_moved, generator=generator, layer=layer)


def active_per_layer(masks: Mapping[str, Mask]) -> dict[str, int]:
    """Returns the number of active entries of every mask, with one transfer from the device."""
    counted = {name: torch.count_nonzero(mask) for name, mask in masks.items() if isinstance(mask, Tensor)}
    found = dict(zip(counted, torch.stack(list(counted.values())).tolist(), strict=True)) if counted else {}
    return {name: mask.num_active if isinstance(mask, SparseIndex) else found[name] for name, mask in masks.items()}


def layer_densities(masks: Mapping[str, Mask]) -> dict[str, float]:
    """Returns the active share of every mask, in [0, 1]."""
    return {name: count / masks[name].numel() for name, count in active_per_layer(masks).items()}


def hash_masks(masks: Mapping[str, Tensor]) -> str:
    """Returns 32 hexadecimal digits that are equal for equal masks with equal names only, on any device."""
    digest = hashlib.blake2b(digest_size=16)
    for name, mask in sorted(masks.items()):
        digest.update(f"{name}{tuple(mask.shape)}".encode())
        digest.update(np.packbits(mask.cpu().contiguous().numpy()).tobytes())
    return digest.hexdigest()


def check_finite(scores: Tensor, layer: str) -> None:
    """Raises `NonFiniteScoresError`, which names `layer`, unless every score is finite."""
    low, high = torch.stack(torch.aminmax(scores)).tolist()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise NonFiniteScoresError(f"scores of {layer} lie between {low} and {high}; they must be finite")


def kth_largest(scores: Tensor, count: int) -> Tensor:
    """Returns the `count`-th largest score, (): a value, so that every algorithm gives the same result."""
    flat = scores.flatten()
    if flat.device.type != "cpu":
        return torch.topk(flat, count, sorted=False).values.min()
    return torch.from_numpy(np.asarray(select_largest(flat.numpy(), count)))


def select_largest(values: NDArray[np.floating[Any]], count: int) -> np.floating[Any]:
    """Returns the `count`-th largest of `values: (N,)`, none of them NaN, usually without sorting all of them.

    A sample gives a lower and an upper bound, and only the values between them are sorted. If the bounds are wrong, all values
    are sorted.
    """
    stride = len(values) // SAMPLE
    if stride > 1:
        sample = np.sort(values[::stride])
        share = 1 - count / len(values)
        place, margin = (
            round(share * len(sample)),
            2 + 4 * math.isqrt(round(share * (1 - share) * len(sample))),
        )
        low = sample[place - margin] if place > margin else -np.inf
        high = sample[place + margin] if place + margin < len(sample) else np.inf
        rank = count - int(np.count_nonzero(values > high))
        between = values[(values >= low) & (values <= high)]
        if 0 < rank <= len(between):
            return np.sort(between)[-rank]  # type: ignore[no-any-return]
    return np.sort(values)[-count]  # type: ignore[no-any-return]  # partition is slow on ties
