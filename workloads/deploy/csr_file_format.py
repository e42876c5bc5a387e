"""The base class of formats that run in float32 on a CPU and store sparse layers as CSR matrices."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from pruneyard.workloads.deploy.files import pack_csr_layers
from pruneyard.workloads.deploy.format import SUM_ORDER, Exported, Fit, check_fit
from pruneyard.workloads.deploy.replacing import sparse_fit
from pruneyard.workloads.networks.finished import FinishedNetwork
from pruneyard.workloads.plugins import name_of


@dataclass(frozen=True, kw_only=True)
class CsrFileFormat(ABC):
    """A format whose subclass defines the kernels of sparse layers."""

    tolerance: ClassVar[float] = SUM_ORDER
    device: ClassVar[torch.device] = torch.device("cpu")
    dtype: ClassVar[torch.dtype] = torch.float32

    @abstractmethod
    def build_layers(self, finished: FinishedNetwork, names: list[str], *, batch_size: int) -> Exported:
        """Returns the network with sparse kernels for the layers with these weight names."""

    def fit(self, finished: FinishedNetwork) -> Fit:
        """See `pruneyard.workloads.deploy.format.Format`."""
        return sparse_fit(finished)

    def build(self, finished: FinishedNetwork, *, batch_size: int) -> Exported:
        """See `pruneyard.workloads.deploy.format.Format`."""
        fit = self.fit(finished)
        check_fit(fit)
        names = [name for name in finished.layers if name not in fit.dense]
        return self.build_layers(finished, names, batch_size=batch_size)

    def encode(self, finished: FinishedNetwork) -> bytes:
        """See `pruneyard.workloads.deploy.format.Format`."""
        fit = self.fit(finished)
        check_fit(fit)
        return pack_csr_layers(finished, fit.dense, format=name_of(self))
