"""Replaces layers by sparse kernels: which layers can be replaced, which stay dense, and why."""

import copy
from collections.abc import Mapping

from torch import nn

from pruneyard.workloads.deploy.format import Exported, Fit
from pruneyard.workloads.deploy.kernels import Kernel, why_dense
from pruneyard.workloads.networks.finished import FinishedNetwork

DENSE = "dense"
READ_DIRECTLY = "the network reads its weight without calling the layer, as attention does"


def sparse_fit(finished: FinishedNetwork) -> Fit:
    """Returns a fit that supports every layer with a mask and a sparse kernel; refuses a network without such a layer."""
    reasons = {name: why_dense(layer, finished.masks.get(name)) for name, layer in finished.layers.items()}
    reasons |= {name: READ_DIRECTLY for name in finished.read_weights if not reasons[name]}
    return fit_with_dense_layers({name: reason for name, reason in reasons.items() if reason}, finished)


def fit_with_dense_layers(dense: Mapping[str, str], finished: FinishedNetwork) -> Fit:
    """Returns a fit in which the layers of `dense` stay dense, by weight name with reasons; refuses if all layers do."""
    if len(dense) < len(finished.layers):
        return Fit(dense=dense)
    reasons = "; ".join(f"{name}: {reason}" for name, reason in dense.items())
    return Fit(refusal=f"no layer can be sparse ({reasons})", dense=dense)


def with_kernels(finished: FinishedNetwork, kernels: Mapping[str, tuple[str, Kernel]]) -> Exported:
    """Returns the network with layers replaced by named kernels, by weight; all other layers stay unchanged."""
    replaced = {id(finished.network.get_parameter(name)): (make, finished.masks[name]) for name, (_, make) in kernels.items()}
    network = copy.deepcopy(finished.network)
    # Walks the original network, because the weights of the copy are other objects with other ids.
    for path, layer in finished.network.named_modules():
        if isinstance(getattr(layer, "weight", None), nn.Parameter) and id(layer.weight) in replaced:
            make, mask = replaced[id(layer.weight)]
            # A layer that shares the weight has a bias of its own, and may have no kernel.
            if not why_dense(layer, mask):
                network.set_submodule(path, make(layer, mask))
    names = {name: kernels[name][0] if name in kernels else DENSE for name in finished.layers}
    return Exported(run=network.eval(), kernels=names)
