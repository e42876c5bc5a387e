"""A job of kind `merge`: merges finished runs into one network, or their outputs into one prediction, and evaluates the result.

Its artifact is like that of a training, so it can be calibrated, exported, and merged again. The ensemble of the members, their
best one on `val` and their mean are evaluated beside it, as `test@ensemble`, `test@best_member` and `test@mean_member`.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pruneyard.workloads.data.batches import Augmentation, DeviceSplit
from pruneyard.workloads.data.dataset import Dataset, Source, Split
from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT
from pruneyard.workloads.merge.context import MergeContext, masked
from pruneyard.workloads.merge.inputs import FROM_MEMBERS, CommonStart, Members
from pruneyard.workloads.merge.member import Member, check_same_network, check_same_outputs
from pruneyard.workloads.merge.merger import MergedNetwork, Merger
from pruneyard.workloads.merge.result import Result, progress_of
from pruneyard.workloads.networks.finished import FinishedNetwork
from pruneyard.workloads.parents import FinishedRun
from pruneyard.workloads.plugins import Plugin, Settings, name_of
from pruneyard.workloads.training.ood_evaluation import ood_splits
from pruneyard.workloads.workload import Context, InterruptedJobError, Progress, RateLimitedCheck

__all__ = ["MergeJob"]


@dataclass(frozen=True, kw_only=True)
class MergeJob:
    """The resolved spec of a merge.

    input: the runs that are merged.
    data: what networks are evaluated on, and what statistics of norms are computed with; by default the data of the runs.
    masks: `same` refuses members with different masks; `union` merges them, and the result is as dense as all of them together.
    refresh: whether running statistics of norms are computed anew; without, they are merged like weights.
    batch_size: rows of one batch when training rows are used.
    start: the weights that all members started from, for methods that need them; by default the `initial` of the runs.
    ood: data sets on whose test rows the out-of-distribution detection of the result is measured.
    """

    input: Members
    data: Annotated[Source, Plugin("data.sources")]
    method: Annotated[Merger, Plugin("merge.methods")]
    masks: Literal["same", "union"] = "same"
    refresh: bool = True
    batch_size: int = 128
    start: CommonStart = field(default=FROM_MEMBERS, metadata=NEUTRAL_BY_DEFAULT)
    ood: tuple[Annotated[Source, Plugin("data.sources")], ...] = field(default=(), metadata=NEUTRAL_BY_DEFAULT)
    seed: int = 0
    leaves: ClassVar[tuple[str, ...]] = ("network", "predictions")
    examples: ClassVar[tuple[Settings, ...]] = (
        {"input": {"from": "runs"}, "method": {"name": "uniform"}, "masks": "union"},
    )
    data_of: ClassVar[str] = "input"  # the key whose runs give `data` where the spec gives none

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it must be 1 or more")
        if self.masks not in ("same", "union"):
            raise ValueError(f"masks is {self.masks!r}; it must be same or union")

    def check(self, data: Dataset) -> list[str]:
        """Returns a warning where there is one member. Raises `ValueError` where the method uses `val` and data has none."""
        if self.method.use_of_val != "none" and not len(data.val):
            raise ValueError(f"method.name is {name_of(self.method)}, which uses rows of val; data has none")
        if len(self.input.runs) == 1:
            return ["input has one run, and a merge of one run is that run itself; give over: seed or over: all"]
        return []

    def expected_work(self, data: Dataset) -> tuple[float, int]:
        """Returns (0.0, 0): which networks run how often is known only when the members are."""
        return 0.0, 0

    def run(self, context: Context) -> Iterator[Progress]:
        """Merges in one step. A job that is stopped starts anew when it is run again."""
        started = time.monotonic()
        data = context.load_data(self.data)
        ood = ood_splits(self.ood, [context.load_data(source) for source in self.ood], known=data)
        members = self._members(context)
        blueprint = members[0].blueprint
        if blueprint.image_shape != data.image_shape:
            raise ValueError(f"data has inputs of shape {data.image_shape}; those of the runs are {blueprint.image_shape}")

        def on_device(split: Split) -> DeviceSplit:
            return DeviceSplit(split, mean=blueprint.mean, std=blueprint.std, device=context.device)

        merging = self._merging(members, on_device, data, context)
        merged = self.method.merge(members, merging)
        network = None
        if isinstance(merged, MergedNetwork):
            network = FinishedNetwork.of(
                blueprint, weights=merging.refreshed(masked(merged.weights, merged.masks)), masks=merged.masks
            )
        result = Result(
            members=members,
            merged=merged,
            network=network,
            merging=merging,
            fits_val=self.method.use_of_val == "fit",
            elapsed=time.monotonic() - started,
        )
        yield progress_of(result, data=data, ood=ood, on_device=on_device)

    def _members(self, context: Context) -> list[Member]:
        """Returns the members. Raises `ValueError` if they cannot be merged together."""
        runs = [context.open_run(artifact) for artifact in self.input.artifacts]
        members = [_member(run) for run in runs]
        check_same_outputs(members)
        if self.method.merges_weights:
            check_same_network(members)
        return members

    def _merging(
        self, members: Sequence[Member], on_device: Callable[[Split], DeviceSplit], data: Dataset, context: Context
    ) -> MergeContext:
        """Returns what the method can ask for."""
        should_stop = RateLimitedCheck(context.should_stop)

        def stop_if_asked() -> None:
            if should_stop():
                raise InterruptedJobError(0)

        splits = {"train": data.train, "val": data.val, "calib": data.calib, "test": data.test}
        return MergeContext(
            members=members,
            splits={name: on_device(split) for name, split in splits.items() if len(split)},
            device=context.device,
            seed=self.seed,
            union=self.masks == "union",
            refresh=self.refresh,
            batch_size=self.batch_size,
            augment=Augmentation(**members[0].spec.get("augment", {})),
            given_start=self.start.read() if self.start.is_given else {},
            stop_if_asked=stop_if_asked,
        )


def _member(run: FinishedRun) -> Member:
    return Member(
        run_key=run.run_key, network=run.network(), spec=run.spec, num_extra=run.num_extra, read_start=run.initial_weights
    )
