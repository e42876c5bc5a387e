"""For every layer the kernel that is fastest on this machine: dense, CSR, BSR or gather, chosen by measurement.

Each candidate is timed on what the layer gets in a forward pass of a batch of random images; a sparse kernel
must beat the dense one by 5% to be taken. Layers hand their outputs on in different layouts, so the network of these
choices is then timed whole against those with one kernel everywhere. The file is that of `csr`; the choice is
made anew where it is loaded.

Reference: none, own measurement
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruneyard.workloads.deploy.compressed import block_size
from pruneyard.workloads.deploy.csr_file_format import CsrFileFormat
from pruneyard.workloads.deploy.format import Exported
from pruneyard.workloads.deploy.kernels import Kernel, bsr_kernel, csr_kernel, gather_kernel
from pruneyard.workloads.deploy.replacing import DENSE, with_kernels
from pruneyard.workloads.deploy.timing import least_times
from pruneyard.workloads.networks.finished import FinishedNetwork

__all__ = ["Auto"]

_EVERYWHERE: Mapping[str, Kernel] = {"csr": csr_kernel, "gather": gather_kernel}
_LEAST_GAIN = 1.05
_ROUNDS = 9


@dataclass(frozen=True, kw_only=True)
class Auto(CsrFileFormat):
    def of_layers(self, finished: FinishedNetwork, names: list[str], *, batch_size: int) -> Exported:
        """The fastest of the network mixed layer by layer and those of one kernel, on random images."""
        images = finished.random_images(batch_size)
        mixed = _chosen_by_layer(finished, names, images)
        plans = {"mixed": mixed, DENSE: {}}
        plans |= {kernel: dict.fromkeys(names, (kernel, make)) for kernel, make in _EVERYWHERE.items()}
        networks = {name: with_kernels(finished, plan) for name, plan in plans.items()}
        runs = {name: exported.run for name, exported in networks.items()}
        times_s = least_times(runs, images, rounds=_ROUNDS)
        return networks[min(times_s, key=lambda name: times_s[name])]


def _chosen_by_layer(
    finished: FinishedNetwork, names: Sequence[str], images: Tensor
) -> dict[str, tuple[str, Kernel]]:
    inputs = _layer_inputs(finished, images)
    chosen = {}
    for name in [name for name in names if name in inputs]:
        mask = finished.masks[name]
        has_blocks = torch.backends.mkl.is_available() and block_size(mask) is not None
        blocks = {"bsr": bsr_kernel} if has_blocks else {}
        kernels = {**_EVERYWHERE, **blocks}
        fastest = _fastest(finished.layers[name], mask, kernels, inputs[name])
        if fastest != DENSE:
            chosen[name] = (fastest, kernels[fastest])
    return chosen


def _layer_inputs(finished: FinishedNetwork, images: Tensor) -> dict[str, Tensor]:
    """What every layer is given when the network sees `images`."""
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


def _fastest(layer: nn.Module, mask: Tensor, kernels: Mapping[str, Kernel], given: Tensor) -> str:
    """Name of the kernel to take for a layer."""
    twins = {DENSE: layer} | {name: make(layer, mask) for name, make in kernels.items()}
    times_s = least_times(twins, given, rounds=_ROUNDS)
    best = min(times_s, key=lambda name: times_s[name])
    return best if times_s[best] * _LEAST_GAIN < times_s[DENSE] else DENSE
