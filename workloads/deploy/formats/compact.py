"""Units and filters that masks left without inputs or without outputs are cut out; what remains is dense.

This changes shapes, not kernels, so that it gains everywhere, but only where whole units died: structured
pruning, or very low densities. The file is safetensors with the smaller weights.

Reference: none, own derivation in workloads/deploy/dead_units.py
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from pruneyard.workloads.deploy.dead_units import dead_units, without_units
from pruneyard.workloads.deploy.files import pack
from pruneyard.workloads.deploy.format import SUM_ORDER, Exported, Fit, check_fit
from pruneyard.workloads.networks.finished import FinishedNetwork

__all__ = ["Compact"]


@dataclass(frozen=True, kw_only=True)
class Compact:
    tolerance: ClassVar[float] = SUM_ORDER
    device: ClassVar[torch.device] = torch.device("cpu")
    dtype: ClassVar[torch.dtype] = torch.float32

    def fit(self, finished: FinishedNetwork) -> Fit:
        """Refuses a network of which nothing can be cut."""
        dense = dict.fromkeys(finished.layers, "what remains is dense")
        if dead_units(finished.network):
            return Fit(dense=dense)
        return Fit(refusal="no unit or filter is dead, or none that can be cut out", dense=dense)

    def build(self, finished: FinishedNetwork, *, batch_size: int) -> Exported:
        """See `pruneyard.workloads.deploy.format.Format`."""
        check_fit(self.fit(finished))
        network = without_units(finished.network)
        return Exported(run=network, kernels=dict.fromkeys(finished.layers, "dense"))

    def encode(self, finished: FinishedNetwork) -> bytes:
        """See `pruneyard.workloads.deploy.format.Format`."""
        check_fit(self.fit(finished))
        return pack(finished, without_units(finished.network).state_dict(), format="compact")
