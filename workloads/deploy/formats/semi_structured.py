"""2:4 sparse linear layers on NVIDIA GPUs of compute capability 8.0 or newer, in float16.

It supports linear layers whose masks have at most two active weights in every four along the inputs, and whose sizes the
kernels allow; other layers stay dense. Its authors have never run it on a GPU: treat it as untested. The file contains the
mask as bits (`NAME.bits`) and the active values (`NAME.values`), and can be read on every machine.

Reference: Mishra et al., Accelerating sparse deep neural networks, arXiv 2104.08378
"""

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from pruneyard.workloads.deploy.compressed import pack_bits
from pruneyard.workloads.deploy.files import pack_sparse
from pruneyard.workloads.deploy.format import Exported, Fit, check_fit
from pruneyard.workloads.deploy.replacing import DENSE, fit_with_dense_layers, sparse_fit
from pruneyard.workloads.networks.finished import FinishedNetwork

__all__ = ["SemiStructured"]

_GROUP, _ACTIVE = 4, 2
_MULTIPLE_ROWS, _MULTIPLE_COLUMNS = 32, 64  # required by torch's CUTLASS kernels for float16 weights
_CAPABILITY = (8, 0)


@dataclass(frozen=True, kw_only=True)
class SemiStructured:
    tolerance: ClassVar[float] = 2e-2  # float16 weights and activations have 11 bits
    device: ClassVar[torch.device] = torch.device("cuda")
    dtype: ClassVar[torch.dtype] = torch.float16

    def fit(self, finished: FinishedNetwork) -> Fit:
        """See `pruneyard.workloads.deploy.format.Format`; refuses without a suitable GPU, or if no layer is 2:4."""
        patterns = fit_with_dense_layers(_dense_layers(finished), finished)
        if patterns.refusal:
            return patterns
        if not torch.cuda.is_available():
            return Fit(refusal="2:4 kernels need a CUDA GPU, and this machine has none", dense=patterns.dense)
        if torch.cuda.get_device_capability() < _CAPABILITY:
            found = ".".join(map(str, torch.cuda.get_device_capability()))
            return Fit(
                refusal=f"2:4 kernels need compute capability 8.0 or newer; this GPU has {found}", dense=patterns.dense
            )
        return patterns

    def build(self, finished: FinishedNetwork, *, batch_size: int) -> Exported:
        """Returns a network whose inputs and outputs may be on the GPU or the CPU."""
        fit = self.fit(finished)
        check_fit(fit)
        network = copy.deepcopy(finished.network).to(self.device, self.dtype)
        kernels = dict.fromkeys(finished.layers, DENSE)
        # The layers of `finished` belong to the original network; their paths find them in the copy.
        paths = {id(layer): path for path, layer in finished.network.named_modules()}
        for name in [name for name in finished.layers if name not in fit.dense]:
            layer = network.get_submodule(paths[id(finished.layers[name])])
            assert isinstance(layer, nn.Linear)
            sparse = torch.sparse.to_sparse_semi_structured(layer.weight.detach())
            layer.weight = nn.Parameter(sparse, requires_grad=False)
            kernels[name] = "2:4"

        def run(images: Tensor) -> Tensor:
            return network(images.to(self.device, self.dtype)).to(images)  # type: ignore[no-any-return]

        return Exported(run=run, kernels=kernels)

    def encode(self, finished: FinishedNetwork) -> bytes:
        """See `pruneyard.workloads.deploy.format.Format`; needs 2:4 masks, but no GPU."""
        # Not `self.fit`, which also refuses machines without a suitable GPU.
        fit = fit_with_dense_layers(_dense_layers(finished), finished)
        check_fit(fit)
        weights = finished.network.state_dict()
        packed = {n: pack_bits(n, weights[n], m) for n, m in finished.masks.items() if n not in fit.dense}
        return pack_sparse(finished, packed, format="semi_structured")


def _dense_layers(finished: FinishedNetwork) -> dict[str, str]:
    """Returns the reasons of the layers that stay dense, by weight name."""
    dense = dict(sparse_fit(finished).dense)
    for name, layer in finished.layers.items():
        if name not in dense and (reason := _obstacle(layer, finished.masks[name])):
            dense[name] = reason
    return dense


def _obstacle(layer: nn.Module, mask: Tensor) -> str:
    if not isinstance(layer, nn.Linear):
        return "2:4 kernels support linear layers only"
    if mask.shape[0] % _MULTIPLE_ROWS or mask.shape[1] % _MULTIPLE_COLUMNS:
        return f"its size {tuple(mask.shape)} is not a multiple of ({_MULTIPLE_ROWS}, {_MULTIPLE_COLUMNS})"
    # The columns are a multiple of 64 here, so no group of four crosses a row.
    if int(mask.reshape(-1, _GROUP).sum(1).max()) > _ACTIVE:
        return f"its mask is not 2:4: a group of four neighbours has more than {_ACTIVE} active weights"
    return ""
