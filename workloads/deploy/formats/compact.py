"""Removes units and filters that masks left without inputs or outputs; the remaining network is dense.

The format changes shapes, not kernels, so it is faster on every machine, but only for networks with dead units: those of
structured pruning or very low density. The file is safetensors with the smaller weights.

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
        """See `pruneyard.workloads.deploy.format.Format`; refuses a network without units that can be removed."""
        dense = dict.fromkeys(finished.layers, "the remaining network is dense")
        if dead_units(finished.network):
            return Fit(dense=dense)
        return Fit(refusal="there is no dead unit or filter that can be removed", dense=dense)

    def build(self, finished: FinishedNetwork, *, batch_size: int) -> Exported:
        """See `pruneyard.workloads.deploy.format.Format`."""
        check_fit(self.fit(finished))
        network = without_units(finished.network)
        return Exported(run=network, kernels=dict.fromkeys(finished.layers, "dense"))

    def encode(self, finished: FinishedNetwork) -> bytes:
        """See `pruneyard.workloads.deploy.format.Format`."""
        check_fit(self.fit(finished))
        return pack(finished, without_units(finished.network).state_dict(), format="compact")
