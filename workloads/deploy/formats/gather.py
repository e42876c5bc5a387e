"""Every output as a weighted sum of input rows, by torch's embedding bag (FBGEMM on x86), convolutions by im2col.

It wants many columns: a batch for linear layers, a map of some size for convolutions. The file is that of `csr`.

Reference: Khudia et al., FBGEMM: enabling high-performance low-precision deep learning inference, arXiv 2101.05615
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from workloads.deploy.files import pack_csr_layers
from workloads.deploy.finished import FinishedNetwork
from workloads.deploy.format import SUM_ORDER, Exported, Fit, check_fit
from workloads.deploy.kernels import gather_kernel
from workloads.deploy.replacing import sparse_fit, with_kernels

__all__ = ["Gather"]


@dataclass(frozen=True, kw_only=True)
class Gather:
    tolerance: ClassVar[float] = SUM_ORDER
    device: ClassVar[torch.device] = torch.device("cpu")
    dtype: ClassVar[torch.dtype] = torch.float32

    def fit(self, finished: FinishedNetwork) -> Fit:
        """See `workloads.deploy.format.Format`."""
        return sparse_fit(finished)

    def build(self, finished: FinishedNetwork, *, batch_size: int) -> Exported:
        """See `workloads.deploy.format.Format`."""
        fit = self.fit(finished)
        check_fit(fit)
        chosen = [name for name in finished.layers if name not in fit.dense]
        return with_kernels(finished, dict.fromkeys(chosen, ("gather", gather_kernel)))

    def encode(self, finished: FinishedNetwork) -> bytes:
        """See `workloads.deploy.format.Format`."""
        fit = self.fit(finished)
        check_fit(fit)
        return pack_csr_layers(finished, fit.dense, format="gather")
