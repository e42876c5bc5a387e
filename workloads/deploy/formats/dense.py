"""All weights with their zeros, and separate masks, run by dense kernels: the baseline of the other formats.

The file is safetensors: `NAME` for every parameter and buffer, `NAME.mask` (boolean) for every mask.

Reference: https://huggingface.co/docs/safetensors
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from pruneyard.workloads.deploy.files import pack
from pruneyard.workloads.deploy.format import Exported, Fit
from pruneyard.workloads.networks.finished import FinishedNetwork

__all__ = ["Dense"]


@dataclass(frozen=True, kw_only=True)
class Dense:
    tolerance: ClassVar[float] = 0.0  # the same kernels on the same numbers
    device: ClassVar[torch.device] = torch.device("cpu")
    dtype: ClassVar[torch.dtype] = torch.float32

    def fit(self, finished: FinishedNetwork) -> Fit:
        """See `pruneyard.workloads.deploy.format.Format`; supports every network."""
        return Fit(dense=dict.fromkeys(finished.layers, "this format is dense"))

    def build(self, finished: FinishedNetwork, *, batch_size: int) -> Exported:
        """See `pruneyard.workloads.deploy.format.Format`."""
        return Exported(run=finished.network, kernels=dict.fromkeys(finished.layers, "dense"))

    def encode(self, finished: FinishedNetwork) -> bytes:
        """See `pruneyard.workloads.deploy.format.Format`."""
        masks = {f"{name}.mask": mask for name, mask in finished.masks.items()}
        return pack(finished, finished.network.state_dict() | masks, format="dense")
