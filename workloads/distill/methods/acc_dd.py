"""IDC along few networks that are slightly trained and slightly perturbed, instead of many random ones (Acc-DD).

Reference: Zhang et al. 2023, Accelerating Dataset Distillation via Model Augmentation (arXiv:2212.06152)

The first pool x pretrain_epochs iterations train the pool on the real set, an epoch each; then every path begins with a
member drawn at random and moved a little. Members differ by their seeds. The pool can also be networks that training jobs
before this one left, of any recipe, whose work is counted in their own rows: a stage of the same spec, and then
`networks: {from: STAGE, over: all}`. A weight outside the mask of a sparse one begins at 0, and is then moved like any other.
Without pool and perturbation this is IDC. The
default of 400 networks is a fifth of IDC's, inferred from the published times (200 and 100 for a tenth and a twentieth).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from pruneyard.workloads.distill import work
from pruneyard.workloads.distill.augment import Strategy
from pruneyard.workloads.distill.distiller import DistillState, Lab
from pruneyard.workloads.distill.earlier_networks import EarlierNetworks
from pruneyard.workloads.distill.methods.idc import ALWAYS, IDC
from pruneyard.workloads.distill.network_training import Pile, Position
from pruneyard.workloads.distill.perturbation import Perturbation
from pruneyard.workloads.distill.work import Scene
from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT

__all__ = ["AccDD"]


@dataclass(frozen=True, kw_only=True)
class AccDD(IDC):
    """Its state has the pool beside what IDC remembers; the members are never moved once they are trained."""

    iterations: int = 400
    lr: float = 1e-2
    pool: int = 5  # networks; 0: a fresh one for every path
    pretrain_epochs: int = 2
    perturbation: Perturbation = Perturbation()
    networks: EarlierNetworks = field(
        default=EarlierNetworks(), metadata=NEUTRAL_BY_DEFAULT
    )  # the pool, instead of one made here

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("pool", "pretrain_epochs"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")
            if self.networks.runs and getattr(self, name) != getattr(AccDD, name):
                raise ValueError(f"{name} is {getattr(self, name)} beside a pool of earlier runs; leave it out")
        if self.num_members and self.early_epochs:
            beside = f"beside a pool of {self.num_members}; give pretrain_epochs instead"
            raise ValueError(f"early_epochs is {self.early_epochs} {beside}")

    @property
    def num_iterations(self) -> int:
        """Epochs of the pool, then sweeps over the classes."""
        return self._pool_iterations + super().num_iterations

    @property
    def num_members(self) -> int:
        """Networks of the pool."""
        return len(self.networks.runs) or self.pool

    @property
    def _pool_iterations(self) -> int:
        return 0 if self.networks.runs else self.pool * self.pretrain_epochs

    def start(self, lab: Lab) -> DistillState:
        """The pool is fresh, or what earlier runs left. Raises `ValueError` for networks that are not of the lab's model."""
        state, path = super().start(lab), self._path(lab)
        if self.networks.runs:
            members = list(self.networks.weights(lab))
        else:
            members = [path.network("pool", member).state_dict() for member in range(self.pool)]
        pool = {_name(i, name): tensor for i, member in enumerate(members) for name, tensor in member.items()}
        return DistillState({**state.tensors, **pool})

    def iterate(self, state: DistillState, iteration: int, lab: Lab) -> DistillState:
        """An epoch of a member, or what IDC does."""
        if iteration < self._pool_iterations:
            return self._pretrained(state, iteration, lab)
        pool = {name: tensor for name, tensor in state.tensors.items() if name.startswith("pool/")}
        about = repr((self.networks.runs or self.pool, self.pretrain_epochs, self.perturbation, self.early_epochs))
        matcher = self.matcher(partial(self.first_network, pool), about_first=about)
        moved = matcher.iterate(state, iteration - self._pool_iterations, lab)
        return DistillState({**moved.tensors, **pool}, moved.numbers)

    def flops(self, iterations: int, scene: Scene) -> float:
        """Counted work of the pool's first epochs, and then of IDC's sweeps."""
        epochs = min(iterations, self._pool_iterations)
        return epochs * scene.num_rows * work.training(scene.kind) + super().flops(iterations - epochs, scene)

    def first_network(self, pool: Mapping[str, Tensor], lab: Lab, number: int) -> nn.Module:
        """What a path begins with: a copy of a member, or a fresh network, perturbed."""
        network = self.fresh_network(lab, number)
        if self.num_members:
            member = self.member(lab, number)
            network.load_state_dict({name: pool[_name(member, name)] for name in network.state_dict()})
        named = {name: parameter.detach() for name, parameter in network.named_parameters()}
        network.load_state_dict(self.perturbation(named, lab.stream("perturb", number)), strict=False)
        return network

    def member(self, lab: Lab, number: int) -> int:
        """Which one a path begins with."""
        return int(torch.randint(self.num_members, (), generator=lab.stream("member", number)))

    def _pretrained(self, state: DistillState, iteration: int, lab: Lab) -> DistillState:
        """After one more epoch of a member, with IDC's training of networks; momentum is kept from epoch to epoch."""
        member, epoch = divmod(iteration, self.pretrain_epochs)
        names = [
            name.removeprefix(_name(member, ""))
            for name in state.tensors
            if name.startswith(_name(member, ""))
        ]
        position = Position.of(state.tensors)
        position = replace(position, weights={name: state.tensors[_name(member, name)] for name in names})
        network = position.network(lab)
        if not epoch:
            position = Position.start(network)
        training = replace(self.network, on="real", rows=len(lab.real.split))
        after = training.follow(
            network,
            position.momentum,
            Pile.of_real(lab.real),
            self._path(lab).stream("pool", iteration),
            strategy=Strategy.of(training.augment, always=ALWAYS),
            chunk=self.chunk,
        )
        kept = {name: tensor for name, tensor in state.tensors.items() if not name.startswith("momentum/")}
        members = {_name(member, name): tensor for name, tensor in after.weights.items()}
        last = iteration == self._pool_iterations - 1
        momentum = {} if last else replace(after, weights={}).tensors
        return DistillState({**kept, **members, **momentum})

    def _path(self, lab: Lab) -> Lab:
        return lab if self.path_seed is None else replace(lab, seed=self.path_seed)


def _name(member: int, name: str) -> str:
    """Of a tensor of the pool in the state."""
    return f"pool/{member}/{name}"
