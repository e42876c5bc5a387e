"""Distillers that select real images instead of synthesising them, so that both are compared in the same experiment."""

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pruneyard.workloads.data.score_file import FILE, MOMENTUM_PREFIX
from pruneyard.workloads.data.scoring import Scorer, Scoring
from pruneyard.workloads.data.selection import ClasswiseSelector, Pool
from pruneyard.workloads.data.synthetic_set import SyntheticSet
from pruneyard.workloads.distill.distiller import DistillContext, DistillState


@dataclass(frozen=True, kw_only=True)
class SelectionDistiller(ClasswiseSelector, ABC):
    """A base class that is combined with a selector. An iteration is an epoch of the scoring run; the last one selects the rows.

    Until then the set consists of random rows. A selector that needs no scores, or reads them from a file, has no iterations and
    selects at the start. The scoring networks have the job's model and depend on its seed and on `scoring`, not on the selector;
    their scores are written to the artifacts.
    """

    ipc: int  # images per class
    scoring: Scoring = Scoring()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ipc < 1:
            raise ValueError(f"ipc is {self.ipc}; it must be 1 or more")

    @property
    def num_iterations(self) -> int:
        """Number of epochs of all scoring networks."""
        return self.scoring.num_epochs if self.asks else 0

    def start(self, context: DistillContext) -> DistillState:
        """Returns the selected rows or, before a scoring run, random rows and the initial state of the run."""
        if not self.num_iterations:
            scorer = self._scorer(context)
            pool = scorer.build_pool(scorer.initial_state()) if self.asks else Pool(labels=context.real.split.labels)
            return DistillState({"rows": self._select_rows(pool, context)})
        generator = context.stream("start")
        rows = torch.cat([context.real.sample_rows(label, self.ipc, generator) for label in range(context.real.num_classes)])
        return DistillState({"rows": rows.to(context.device), **self._scorer(context).initial_state()})

    def iterate(self, state: DistillState, iteration: int, context: DistillContext) -> DistillState:
        """Runs an epoch of scoring; the last iteration also selects the rows and drops the momenta."""
        scorer, scores = self._scorer(context), {name: t for name, t in state.tensors.items() if name != "rows"}
        after = scorer.run_epoch(scores, iteration)
        index, epoch = divmod(iteration, self.scoring.epochs)
        # A prediction is right if its margin is positive.
        numbers = {"scorer_accuracy": float((after["margins"][index, epoch] > 0).float().mean())}
        if iteration == self.num_iterations - 1:
            final = {name: tensor for name, tensor in after.items() if not name.startswith(MOMENTUM_PREFIX)}
            return DistillState({"rows": self._select_rows(scorer.build_pool(after), context), **final}, numbers)
        return DistillState({"rows": state.tensors["rows"], **after}, numbers)

    def synthetic_set(self, state: DistillState, context: DistillContext) -> SyntheticSet:
        """Returns the selected images with hard labels."""
        return real_images(state.tensors["rows"], context)

    def files(self, state: DistillState, context: DistillContext) -> Mapping[str, bytes]:
        """Returns the file of scores if this job computed them."""
        if not self.num_iterations:
            return {}
        return {FILE: self._scorer(context).to_bytes({name: t for name, t in state.tensors.items() if name != "rows"})}

    def _scorer(self, context: DistillContext) -> Scorer:
        return Scorer(
            table=self.scoring,
            rows=context.real.split,
            asks=self.asks,
            network=lambda index: context.network("score", index),
            epoch_generator=lambda number: context.stream("score", number),
            data=context.data,
        )

    def _select_rows(self, pool: Pool, context: DistillContext) -> Tensor:
        return self.select(pool, [self.ipc] * context.real.num_classes, context.stream("select")).to(context.device)


def real_images(rows: Tensor, context: DistillContext) -> SyntheticSet:
    """Returns a set of training rows, (n,) int64 in class order, on the device."""
    return SyntheticSet(
        images=context.real.split.images[rows].to(torch.float32) / 255,
        labels=context.real.split.labels[rows],
        soft_labels=torch.zeros(0, context.real.num_classes, device=context.device),
        mean=context.real.mean,
        std=context.real.std,
    )


def random_images(ipc: int, context: DistillContext, *, name: str) -> SyntheticSet:
    """Returns a set of random training rows of each class, sampled from the context's random stream `name`."""
    generator = context.stream(name)
    rows = [context.real.sample_rows(label, ipc, generator) for label in range(context.real.num_classes)]
    return real_images(torch.cat(rows).to(context.device), context)
