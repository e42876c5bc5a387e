"""Outputs as weighted sums of input rows, by torch's embedding bag (FBGEMM on x86), convolutions by im2col.

It is efficient for many columns: batches for linear layers, large feature maps for convolutions. The file is that of `csr`.

Reference: Khudia et al., FBGEMM: enabling high-performance low-precision deep learning inference, arXiv 2101.05615
"""

from dataclasses import dataclass

from pruneyard.workloads.deploy.csr_file_format import CsrFileFormat
from pruneyard.workloads.deploy.format import Exported
from pruneyard.workloads.deploy.kernels import gather_kernel
from pruneyard.workloads.deploy.replacing import with_kernels
from pruneyard.workloads.networks.finished import FinishedNetwork

__all__ = ["Gather"]


@dataclass(frozen=True, kw_only=True)
class Gather(CsrFileFormat):
    def build_layers(self, finished: FinishedNetwork, names: list[str], *, batch_size: int) -> Exported:
        """Uses the gather kernel for all layers and batch sizes."""
        return with_kernels(finished, dict.fromkeys(names, ("gather", gather_kernel)))
