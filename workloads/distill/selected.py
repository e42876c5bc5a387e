"""Real images chosen by a rule for training rows, as a way to make a set: it stands in one table with what is synthesised."""

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pruneyard.workloads.data.score_file import FILE, MOMENTUM_PREFIX
from pruneyard.workloads.data.scoring import Scorer, Scoring
from pruneyard.workloads.data.selection import ClasswiseSelector, Pool
from pruneyard.workloads.data.synthetic_set import SyntheticSet
from pruneyard.workloads.distill.distiller import DistillState, Lab


@dataclass(frozen=True, kw_only=True)
class Selected(ClasswiseSelector, ABC):
    """To be mixed with a rule. An iteration is an epoch of the scoring run; the last one chooses.

    Until then the set is one of random rows. A rule that asks for nothing has no iterations and chooses at the start, and so does
    one whose scores are read. The scoring networks are of the job's model; they depend on its seed and on `scoring`, not on the
    rule, and the artifact holds what they found out.
    """

    ipc: int  # images per class
    scoring: Scoring = Scoring()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ipc < 1:
            raise ValueError(f"ipc is {self.ipc}; it must be 1 or more")

    @property
    def num_iterations(self) -> int:
        """Epochs of all scoring networks."""
        return self.scoring.num_epochs if self.asks else 0

    def start(self, lab: Lab) -> DistillState:
        """What was chosen, or random rows and nothing known yet."""
        if not self.num_iterations:
            scorer = self._scorer(lab)
            pool = scorer.build_pool(scorer.initial_state()) if self.asks else Pool(labels=lab.real.split.labels)
            return DistillState({"rows": self._chosen(pool, lab)})
        draws = lab.stream("start")
        rows = torch.cat([lab.real.draw(label, self.ipc, draws) for label in range(lab.real.num_classes)])
        return DistillState({"rows": rows.to(lab.device), **self._scorer(lab).initial_state()})

    def iterate(self, state: DistillState, iteration: int, lab: Lab) -> DistillState:
        """An epoch of scoring; after the last one, the rows and what is known of all."""
        scorer, known = self._scorer(lab), {name: t for name, t in state.tensors.items() if name != "rows"}
        after = scorer.run_epoch(known, iteration)
        index, epoch = divmod(iteration, self.scoring.epochs)
        numbers = {"scorer_accuracy": float((after["margins"][index, epoch] > 0).float().mean())}
        if iteration == self.num_iterations - 1:
            found = {name: tensor for name, tensor in after.items() if not name.startswith(MOMENTUM_PREFIX)}
            return DistillState({"rows": self._chosen(scorer.build_pool(after), lab), **found}, numbers)
        return DistillState({"rows": state.tensors["rows"], **after}, numbers)

    def synthetic_set(self, state: DistillState, lab: Lab) -> SyntheticSet:
        """The chosen images as they are, with hard labels."""
        return real_images(state.tensors["rows"], lab)

    def files(self, state: DistillState, lab: Lab) -> Mapping[str, bytes]:
        """The scores, where this job made them."""
        if not self.num_iterations:
            return {}
        return {FILE: self._scorer(lab).to_bytes({name: t for name, t in state.tensors.items() if name != "rows"})}

    def _scorer(self, lab: Lab) -> Scorer:
        return Scorer(
            table=self.scoring,
            rows=lab.real.split,
            asks=self.asks,
            network=lambda index: lab.network("score", index),
            epoch_generator=lambda number: lab.stream("score", number),
            data=lab.data,
        )

    def _chosen(self, pool: Pool, lab: Lab) -> Tensor:
        return self.select(pool, [self.ipc] * lab.real.num_classes, lab.stream("select")).to(lab.device)


def real_images(rows: Tensor, lab: Lab) -> SyntheticSet:
    """A set of training rows, (n,) int64 in class order, on the device."""
    return SyntheticSet(
        images=lab.real.split.images[rows].to(torch.float32) / 255,
        labels=lab.real.split.labels[rows],
        soft_labels=torch.zeros(0, lab.real.num_classes, device=lab.device),
        mean=lab.real.mean,
        std=lab.real.std,
    )


def random_images(ipc: int, lab: Lab, *, name: str) -> SyntheticSet:
    """Random training rows of each class, by the lab's stream of that name."""
    draws = lab.stream(name)
    rows = [lab.real.draw(label, ipc, draws) for label in range(lab.real.num_classes)]
    return real_images(torch.cat(rows).to(lab.device), lab)
