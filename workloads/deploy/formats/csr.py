"""Linear layers and convolutions as torch's sparse CSR matrices (MKL on x86), convolutions by im2col.

The file is safetensors: `NAME.crow`, `NAME.col`, `NAME.values` for every weight with zeros; other weights are complete.

Reference: https://docs.pytorch.org/docs/stable/sparse.html#sparse-csr-tensor
"""

from dataclasses import dataclass

from pruneyard.workloads.deploy.csr_file_format import CsrFileFormat
from pruneyard.workloads.deploy.format import Exported
from pruneyard.workloads.deploy.kernels import csr_kernel
from pruneyard.workloads.deploy.replacing import with_kernels
from pruneyard.workloads.networks.finished import FinishedNetwork

__all__ = ["Csr"]


@dataclass(frozen=True, kw_only=True)
class Csr(CsrFileFormat):
    def build_layers(self, finished: FinishedNetwork, names: list[str], *, batch_size: int) -> Exported:
        """Uses the CSR kernel for all layers and batch sizes."""
        return with_kernels(finished, dict.fromkeys(names, ("csr", csr_kernel)))
