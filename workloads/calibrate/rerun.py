"""An input run of a calibrate job whose network is run again, on its own data and on OOD sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pruneyard.workloads.calibrate.ood_detection import Sets
from pruneyard.workloads.calibrate.outputs import Outputs
from pruneyard.workloads.calibrate.sampled_members import (
    DropoutPasses,
    MemberSampler,
    WeightSamples,
    member_logits,
    own_splits,
)
from pruneyard.workloads.data.dataset import Dataset, Source, Split
from pruneyard.workloads.parents import FinishedRun
from pruneyard.workloads.workload import Context


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """A finished run with the data that it was trained on and the OOD sets."""

    run: FinishedRun
    data: Dataset
    sets: Sets
    device: torch.device

    @classmethod
    def of(cls, run: FinishedRun, context: Context, *, near: Sequence[Source], far: Sequence[Source]) -> "Rerun":
        """Loads all data of the job."""
        data = run.training_data(context.load_data)
        return cls(run=run, data=data, sets=Sets.of(near, far, context.load_data, known=data), device=context.device)

    def splits(self, stored: Mapping[str, Outputs]) -> dict[str, Split]:
        """Returns the rows that the run predicted, and the OOD sets."""
        return own_splits(self.run, stored, self.data) | dict(self.sets.rows)

    def members(
        self, stored: Mapping[str, Outputs], *, dropout_passes: int, swag_samples: int, seed: int
    ) -> dict[str, NDArray[np.floating]]:
        """Returns logits (M, N, C) by split of members sampled from this run; one of the two numbers is 0."""
        sampler: MemberSampler = DropoutPasses(num=dropout_passes)
        if swag_samples:
            sampler = WeightSamples.of(self.run, swag_samples, data=self.data, device=self.device)
        return member_logits(self.run, sampler, self.splits(stored), seed=seed, device=self.device)
