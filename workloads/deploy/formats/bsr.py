"""Layers with block-sparse masks as torch's sparse BSR matrices (MKL on x86), convolutions by im2col.

A weight is viewed as a matrix (outputs, inputs x kernel). Square blocks with sides of 32, 16, 8, 4 or 2 must be completely
active or inactive; other layers stay dense. The file contains `NAME.block_crow`, `NAME.block_col`, `NAME.blocks`.

Reference: https://docs.pytorch.org/docs/stable/sparse.html#sparse-bsr-tensor
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from pruneyard.workloads.deploy.compressed import BLOCK_SIZES, block_size, pack_bsr
from pruneyard.workloads.deploy.files import pack_sparse
from pruneyard.workloads.deploy.format import SUM_ORDER, Exported, Fit, check_fit
from pruneyard.workloads.deploy.kernels import bsr_kernel
from pruneyard.workloads.deploy.replacing import fit_with_dense_layers, sparse_fit, with_kernels
from pruneyard.workloads.networks.finished import FinishedNetwork

__all__ = ["Bsr"]

_NO_BLOCKS = f"its mask does not consist of square blocks with sides of {', '.join(map(str, BLOCK_SIZES))}"


@dataclass(frozen=True, kw_only=True)
class Bsr:
    tolerance: ClassVar[float] = SUM_ORDER
    device: ClassVar[torch.device] = torch.device("cpu")
    dtype: ClassVar[torch.dtype] = torch.float32

    def fit(self, finished: FinishedNetwork) -> Fit:
        """See `pruneyard.workloads.deploy.format.Format`; refuses if torch has no MKL, which provides the kernels."""
        dense = dict(sparse_fit(finished).dense)
        for name, mask in finished.masks.items():
            if name not in dense and block_size(mask) is None:
                dense[name] = _NO_BLOCKS
        if not torch.backends.mkl.is_available():
            return Fit(refusal="BSR kernels need MKL, and this torch is built without it", dense=dense)
        return fit_with_dense_layers(dense, finished)

    def build(self, finished: FinishedNetwork, *, batch_size: int) -> Exported:
        """See `pruneyard.workloads.deploy.format.Format`."""
        fit = self.fit(finished)
        check_fit(fit)
        chosen = [name for name in finished.layers if name not in fit.dense]
        return with_kernels(finished, dict.fromkeys(chosen, ("bsr", bsr_kernel)))

    def encode(self, finished: FinishedNetwork) -> bytes:
        """See `pruneyard.workloads.deploy.format.Format`."""
        fit = self.fit(finished)
        check_fit(fit)
        weights, packed = finished.network.state_dict(), {}
        for name, mask in finished.masks.items():
            size = block_size(mask)
            if name not in fit.dense and size is not None:
                packed[name] = pack_bsr(name, weights[name], mask, size)
        return pack_sparse(finished, packed, format="bsr")
