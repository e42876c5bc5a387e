"""Uses for every layer the kernel that is measured fastest on this machine, dense or sparse.

The sparse ones are CSR and gather, and where the mask allows it BSR and constant fan-in. Each candidate is timed on the layer's
inputs in a forward pass of a batch of random images; a sparse kernel must be 5% faster than the dense one to be chosen. The
layouts of outputs differ between kernels, so the network of these choices is then timed against networks with one kernel
everywhere. The file is that of `csr`; kernels are chosen again on the machine that loads it.

Reference: none, own measurement
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruneyard.workloads.deploy.compressed import block_size, fan_in
from pruneyard.workloads.deploy.csr_file_format import CsrFileFormat
from pruneyard.workloads.deploy.format import Exported
from pruneyard.workloads.deploy.kernels import (
    Kernel,
    bsr_kernel,
    constant_fan_in_kernel,
    csr_kernel,
    gather_kernel,
)
from pruneyard.workloads.deploy.replacing import DENSE, with_kernels
from pruneyard.workloads.deploy.timing import least_times
from pruneyard.workloads.networks.finished import FinishedNetwork

__all__ = ["Auto"]

_ANY_MASK: Mapping[str, Kernel] = {"csr": csr_kernel, "gather": gather_kernel}
_LEAST_GAIN = 1.05
_ROUNDS = 9


@dataclass(frozen=True, kw_only=True)
class Auto(CsrFileFormat):
    def build_layers(self, finished: FinishedNetwork, names: list[str], *, batch_size: int) -> Exported:
        """Returns the fastest network on random images: with the best kernel per layer, or with one kernel everywhere."""
        images = finished.random_images(batch_size)
        mixed = _choose_by_layer(finished, names, images)
        # Timing layers alone does not show the cost of different output layouts, so the mixed choice has to compete as well.
        plans = {"mixed": mixed, DENSE: {}}
        usable = [_kernels_for(finished.masks[name]) for name in names]
        everywhere = {kernel: make for kernel, make in usable[0].items() if all(kernel in each for each in usable)}
        plans |= {kernel: dict.fromkeys(names, (kernel, make)) for kernel, make in everywhere.items()}
        networks = {name: with_kernels(finished, plan) for name, plan in plans.items()}
        runs = {name: exported.run for name, exported in networks.items()}
        times_s = least_times(runs, images, rounds=_ROUNDS)
        return networks[min(times_s, key=lambda name: times_s[name])]


def _choose_by_layer(
    finished: FinishedNetwork, names: Sequence[str], images: Tensor
) -> dict[str, tuple[str, Kernel]]:
    inputs = _layer_inputs(finished, images)
    chosen = {}
    # A layer that the forward pass does not run has no inputs to be timed on.
    for name in [name for name in names if name in inputs]:
        mask = finished.masks[name]
        kernels = _kernels_for(mask)
        fastest = _fastest_kernel(finished.layers[name], mask, kernels, inputs[name])
        if fastest != DENSE:
            chosen[name] = (fastest, kernels[fastest])
    return chosen


def _kernels_for(mask: Tensor) -> dict[str, Kernel]:
    """Returns the sparse kernels that can compute a layer with this mask on this machine, by name."""
    kernels = dict(_ANY_MASK)
    # Torch's BSR product needs MKL, see the format `bsr`.
    if torch.backends.mkl.is_available() and block_size(mask) is not None:
        kernels["bsr"] = bsr_kernel
    if fan_in(mask) is not None:
        kernels["constant_fan_in"] = constant_fan_in_kernel
    return kernels


def _layer_inputs(finished: FinishedNetwork, images: Tensor) -> dict[str, Tensor]:
    """Returns the inputs of every layer in a forward pass of `images`, by weight name."""
    inputs: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, given, name=name: inputs.update({name: given[0]}))
        for name, layer in finished.layers.items()
    ]
    try:
        with torch.inference_mode():
            finished.network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return inputs


def _fastest_kernel(layer: nn.Module, mask: Tensor, kernels: Mapping[str, Kernel], inputs: Tensor) -> str:
    """Returns the name of the kernel to use for a layer."""
    candidates = {DENSE: layer} | {name: make(layer, mask) for name, make in kernels.items()}
    times_s = least_times(candidates, inputs, rounds=_ROUNDS)
    best = min(times_s, key=lambda name: times_s[name])
    return best if times_s[best] * _LEAST_GAIN < times_s[DENSE] else DENSE
