"""Starts the network of a training and its masks, without allocating large weights that the method starts sparse."""

from collections.abc import Callable

from torch import nn

from pruneyard.workloads.execution.deferred import DeferredWeight, NotDeferrableError, RecordedStart
from pruneyard.workloads.execution.layers import MAX_DENSITY, candidates_of
from pruneyard.workloads.masks.choice import choose_prunable
from pruneyard.workloads.masks.masks import prunable_weights
from pruneyard.workloads.seeding import global_stream, stream
from pruneyard.workloads.training.mask_updater import CountsWeights, MaskUpdater, SparseState, UpdatesIndices
from pruneyard.workloads.training.recipe import Recipe


def start_network(
    build: Callable[[], nn.Module],
    *,
    recipe: Recipe,
    method: MaskUpdater,
    seed: int,
    image_shape: tuple[int, ...],
    defers: bool,
) -> tuple[nn.Module, SparseState, dict[str, DeferredWeight]]:
    """Returns an initialised network on the CPU, the first state of the method, and the weights that are placeholders only.

    build: builds the network with numbers of torch's generator.
    defers: whether large weights may be placeholders, which then have an index in the method's state; their entries are those
        that the allocated weight would have.
    """
    network, deferred = None, dict[str, DeferredWeight]()
    can_defer = isinstance(method, UpdatesIndices) and method.updates_indices and isinstance(method, CountsWeights)
    if defers and can_defer and not recipe.initial.is_given:
        recorded = RecordedStart()
        try:
            with global_stream(seed, "init"), recorded:
                network = build()
            deferred = recorded.of(dict(network.named_parameters()))
        except NotDeferrableError:
            network = None
    if network is None:
        with global_stream(seed, "init"):
            network = build()
    recipe.initial.load_into(network)
    choose_prunable(network, recipe.prunable)
    weights = prunable_weights(network)
    if deferred and isinstance(method, CountsWeights):
        counts, candidates = method.counts(weights), candidates_of(network, weights, image_shape)
        for name in list(deferred):
            size = network.get_parameter(name).numel()
            if name not in candidates or counts.get(name, size) > MAX_DENSITY * size:
                network.get_parameter(name).data = deferred.pop(name).dense()
    seen = {n: w.detach().to("meta") if n in deferred else w.detach() for n, w in weights.items()}
    return network, method.start(seen, generator=stream(seed, "masks")), deferred
