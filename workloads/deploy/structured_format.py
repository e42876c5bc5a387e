"""The base class of formats for masks with a structure, whose other layers stay dense: float32 on a CPU."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruneyard.workloads.deploy.files import pack_sparse
from pruneyard.workloads.deploy.format import SUM_ORDER, Exported, Fit, check_fit
from pruneyard.workloads.deploy.kernels import Kernel
from pruneyard.workloads.deploy.replacing import fit_with_dense_layers, sparse_fit, with_kernels
from pruneyard.workloads.networks.finished import FinishedNetwork
from pruneyard.workloads.plugins import name_of


@dataclass(frozen=True, kw_only=True)
class StructuredFormat(ABC):
    """A format whose subclass says which masks have the structure, and packs and computes their layers."""

    tolerance: ClassVar[float] = SUM_ORDER
    device: ClassVar[torch.device] = torch.device("cpu")
    dtype: ClassVar[torch.dtype] = torch.float32

    @abstractmethod
    def obstacle(self, mask: Tensor) -> str:
        """Returns why a layer with this mask stays dense; empty if the mask has the structure."""

    @abstractmethod
    def kernel(self) -> Kernel:
        """Returns the kernel of layers whose masks have the structure."""

    @abstractmethod
    def pack(self, name: str, weight: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Returns the tensors of a weight in a file, by name."""

    def refusal(self) -> str:
        """Returns why the format cannot be used on this machine; empty if it can."""
        return ""

    def fit(self, finished: FinishedNetwork) -> Fit:
        """See `pruneyard.workloads.deploy.format.Format`."""
        dense = dict(sparse_fit(finished).dense)
        for name, mask in finished.masks.items():
            if name not in dense and (obstacle := self.obstacle(mask)):
                dense[name] = obstacle
        return Fit(refusal=self.refusal(), dense=dense) if self.refusal() else fit_with_dense_layers(dense, finished)

    def build(self, finished: FinishedNetwork, *, batch_size: int) -> Exported:
        """See `pruneyard.workloads.deploy.format.Format`."""
        fit = self.fit(finished)
        check_fit(fit)
        chosen = [name for name in finished.layers if name not in fit.dense]
        return with_kernels(finished, dict.fromkeys(chosen, (name_of(self), self.kernel())))

    def encode(self, finished: FinishedNetwork) -> bytes:
        """See `pruneyard.workloads.deploy.format.Format`."""
        fit = self.fit(finished)
        check_fit(fit)
        weights = finished.network.state_dict()
        packed = {n: self.pack(n, weights[n], mask) for n, mask in finished.masks.items() if n not in fit.dense}
        return pack_sparse(finished, packed, format=name_of(self))
