"""Linear layers and convolutions as torch's sparse CSR matrices (MKL on x86), convolutions by im2col.

The file is safetensors: `NAME.crow`, `NAME.col`, `NAME.values` for every weight with zeros, the others whole.

Reference: https://docs.pytorch.org/docs/stable/sparse.html#sparse-csr-tensor
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from workloads.deploy.files import pack_csr_layers
from workloads.deploy.finished import FinishedNetwork
from workloads.deploy.format import SUM_ORDER, Exported, Fit, check_fit
from workloads.deploy.kernels import csr_kernel
from workloads.deploy.replacing import sparse_fit, with_kernels

__all__ = ["Csr"]


@dataclass(frozen=True, kw_only=True)
class Csr:
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
        return with_kernels(finished, dict.fromkeys(chosen, ("csr", csr_kernel)))

    def encode(self, finished: FinishedNetwork) -> bytes:
        """See `workloads.deploy.format.Format`."""
        fit = self.fit(finished)
        check_fit(fit)
        return pack_csr_layers(finished, fit.dense, format="csr")
