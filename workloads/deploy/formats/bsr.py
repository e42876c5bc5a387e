"""Layers with block-sparse masks as torch's sparse BSR matrices (MKL on x86), convolutions by im2col.

A weight is viewed as a matrix (outputs, inputs x kernel). Square blocks with sides of 32, 16, 8, 4 or 2 must be completely
active or inactive; other layers stay dense. The file contains `NAME.block_crow`, `NAME.block_col`, `NAME.blocks`.

Reference: https://docs.pytorch.org/docs/stable/sparse.html#sparse-bsr-tensor
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pruneyard.workloads.deploy.compressed import BLOCK_SIZES, block_size, pack_bsr
from pruneyard.workloads.deploy.kernels import Kernel, bsr_kernel
from pruneyard.workloads.deploy.structured_format import StructuredFormat

__all__ = ["Bsr"]

_NO_BLOCKS = f"its mask does not consist of square blocks with sides of {', '.join(map(str, BLOCK_SIZES))}"


@dataclass(frozen=True, kw_only=True)
class Bsr(StructuredFormat):
    """Square blocks, as the pattern `block` makes them."""

    def refusal(self) -> str:
        """Returns that torch has no MKL, which provides the kernels; empty if it has."""
        has_mkl = torch.backends.mkl.is_available()
        return "" if has_mkl else "BSR kernels need MKL, and this torch is built without it"

    def obstacle(self, mask: Tensor) -> str:
        """Returns that the mask has no blocks; empty if it has."""
        return _NO_BLOCKS if block_size(mask) is None else ""

    def kernel(self) -> Kernel:
        """Returns the kernel of blocks."""
        return bsr_kernel

    def pack(self, name: str, weight: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Returns the tensors of a weight in a file, by name."""
        size = block_size(mask)
        assert size is not None, "the mask has no blocks"
        return pack_bsr(name, weight, mask, size)
