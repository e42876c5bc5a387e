"""Layers whose neurons all have equally many inputs: a regular index, values and columns (neurons, inputs kept).

Neurons without any input, as ablation leaves them, are not stored. Other layers stay dense. A batch is computed by torch's
embedding bag (FBGEMM on x86), convolutions by im2col; a single row by a gather, a product and a sum. Whether a regular index is
faster than that of `csr` or `gather` depends on the machine; `auto` measures it. The file contains `NAME.fan_rows`,
`NAME.fan_columns`, `NAME.fan_values`.

Reference: Lasby et al. 2023, Dynamic Sparse Training with Structured Sparsity (arXiv:2305.02299), the condensed representation
"""

from dataclasses import dataclass

from torch import Tensor

from pruneyard.workloads.deploy.compressed import fan_in, pack_fan_in
from pruneyard.workloads.deploy.kernels import Kernel, constant_fan_in_kernel
from pruneyard.workloads.deploy.structured_format import StructuredFormat

__all__ = ["ConstantFanInFormat"]


@dataclass(frozen=True, kw_only=True)
class ConstantFanInFormat(StructuredFormat):
    """Equally many inputs of every neuron, as the pattern `constant_fan_in` makes them."""

    def obstacle(self, mask: Tensor) -> str:
        """Returns that the numbers of inputs differ; empty if they do not."""
        return "its neurons have different numbers of inputs" if fan_in(mask) is None else ""

    def kernel(self) -> Kernel:
        """Returns the kernel of a regular index."""
        return constant_fan_in_kernel

    def pack(self, name: str, weight: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Returns the tensors of a weight in a file, by name."""
        return pack_fan_in(name, weight, mask)
