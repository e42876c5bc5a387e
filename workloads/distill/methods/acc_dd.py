"""Runs IDC with few briefly trained and slightly perturbed networks instead of many random ones (Acc-DD).

Reference: Zhang et al. 2023, Accelerating Dataset Distillation via Model Augmentation (arXiv:2212.06152)

The first pool x pretrain_epochs iterations train the pool on the real set, one epoch each. Then every path begins with a
randomly sampled, slightly perturbed member. Members differ by their seeds. The pool can also consist of networks of earlier
training jobs with any recipe, whose work is counted in their own rows: a stage of the same spec, given as
`networks: {from: STAGE, over: all}`. A weight outside the mask of a sparse network begins at 0 and is then trained like any
other. Without pool and perturbation this is IDC. The default of 400 networks is a fifth of IDC's, inferred from the published
times (200 and 100 for a tenth and a twentieth).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from pruneyard.workloads.distill import flop_counting
from pruneyard.workloads.distill.augment import Strategy
from pruneyard.workloads.distill.distiller import DistillContext, DistillState
from pruneyard.workloads.distill.flop_counting import ProblemSize
from pruneyard.workloads.distill.methods.idc import ALWAYS, IDC
from pruneyard.workloads.distill.network_training import LabelledImages, NetworkState
from pruneyard.workloads.distill.perturbation import Perturbation
from pruneyard.workloads.distill.upstream_networks import UpstreamNetworks
from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT

__all__ = ["AccDD"]


@dataclass(frozen=True, kw_only=True)
class AccDD(IDC):
    """IDC with a pool of networks. The state also contains the pool, whose members do not change after their training."""

    iterations: int = 400
    lr: float = 1e-2
    pool: int = 5  # number of networks; 0: a new network for every path
    pretrain_epochs: int = 2
    perturbation: Perturbation = Perturbation()
    networks: UpstreamNetworks = field(default=UpstreamNetworks(), metadata=NEUTRAL_BY_DEFAULT)  # used as the pool

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("pool", "pretrain_epochs"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")
            # The class attribute is the field's default: a value that was left out cannot be told from the default.
            if self.networks.runs and getattr(self, name) != getattr(AccDD, name):
                raise ValueError(f"{name} is {getattr(self, name)}, but networks gives the pool; leave {name} out")
        if self.num_members and self.early_epochs:
            conflict = f"early_epochs is {self.early_epochs}, but there is a pool of {self.num_members} networks"
            raise ValueError(f"{conflict}; give pretrain_epochs instead")

    @property
    def num_iterations(self) -> int:
        """Number of epochs of the pool and of sweeps over the classes."""
        return self._pool_iterations + super().num_iterations

    @property
    def num_members(self) -> int:
        """Number of networks in the pool."""
        return len(self.networks.runs) or self.pool

    @property
    def _pool_iterations(self) -> int:
        return 0 if self.networks.runs else self.pool * self.pretrain_epochs

    def start(self, context: DistillContext) -> DistillState:
        """Returns initial images and a pool, new or from earlier runs. Raises `ValueError` for networks of another model."""
        state, path = super().start(context), self._path(context)
        if self.networks.runs:
            members = list(self.networks.weights(context))
        else:
            members = [path.network("pool", member).state_dict() for member in range(self.pool)]
        pool = {_name(i, name): tensor for i, member in enumerate(members) for name, tensor in member.items()}
        return DistillState({**state.tensors, **pool})

    def iterate(self, state: DistillState, iteration: int, context: DistillContext) -> DistillState:
        """Trains a member for an epoch, or makes an iteration of IDC."""
        if iteration < self._pool_iterations:
            return self._pretrain(state, iteration, context)
        pool = {name: tensor for name, tensor in state.tensors.items() if name.startswith("pool/")}
        key = repr((self.networks.runs or self.pool, self.pretrain_epochs, self.perturbation, self.early_epochs))
        first_network = partial(self.first_network, pool)
        matcher = self.matcher(first_network, first_network_key=key)
        after = matcher.iterate(state, iteration - self._pool_iterations, context)
        after = self.with_measures(after, iteration, context, first_network=first_network)
        # The matcher returns its own tensors only.
        return DistillState({**after.tensors, **pool}, after.numbers)

    def ends_network(self, iteration: int) -> bool:
        """Returns whether no network is in use after the first `iteration` iterations; the pool is trained before the first."""
        return iteration >= self._pool_iterations and super().ends_network(iteration - self._pool_iterations)

    def flops(self, iterations: int, problem: ProblemSize) -> float:
        """Returns the FLOPs of the pool's epochs and of IDC's sweeps among the first `iterations` iterations."""
        epochs = min(iterations, self._pool_iterations)
        pool_flops = epochs * problem.num_rows * flop_counting.training_flops(problem.network_spec)
        return pool_flops + super().flops(iterations - epochs, problem)

    def first_network(self, pool: Mapping[str, Tensor], context: DistillContext, number: int) -> nn.Module:
        """Returns the network that a path begins with: a perturbed copy of a member or, without a pool, of a new network."""
        network = self.fresh_network(context, number)
        if self.num_members:
            member = self.member(context, number)
            network.load_state_dict({name: pool[_name(member, name)] for name in network.state_dict()})
        named = {name: parameter.detach() for name, parameter in network.named_parameters()}
        # Not strict: buffers are not perturbed.
        network.load_state_dict(self.perturbation(named, context.stream("perturb", number)), strict=False)
        return network

    def member(self, context: DistillContext, number: int) -> int:
        """Returns the index of the member that a path begins with."""
        return int(torch.randint(self.num_members, (), generator=context.stream("member", number)))

    def _pretrain(self, state: DistillState, iteration: int, context: DistillContext) -> DistillState:
        """Returns the state after an epoch of a member with IDC's network training; momentum is kept between epochs."""
        member, epoch = divmod(iteration, self.pretrain_epochs)
        prefix = _name(member, "")
        names = [name.removeprefix(prefix) for name in state.tensors if name.startswith(prefix)]
        network_state = NetworkState.from_tensors(state.tensors)
        network_state = replace(network_state, weights={name: state.tensors[_name(member, name)] for name in names})
        network = network_state.network(context)
        # Momentum is kept between the epochs of a member, not between members.
        if not epoch:
            network_state = NetworkState.initial(network)
        training = replace(self.network, train_on="real", num_images=len(context.real.split))
        after = training.run(
            network,
            network_state.momentum,
            LabelledImages.from_real_set(context.real),
            self._path(context).stream("pool", iteration),
            strategy=Strategy.of(training.augment, always=ALWAYS),
            chunk=self.chunk,
        )
        # One member is trained at a time, so there is one momentum, and it is dropped after the last.
        kept = {name: tensor for name, tensor in state.tensors.items() if not name.startswith("momentum/")}
        members = {_name(member, name): tensor for name, tensor in after.weights.items()}
        is_last_epoch = iteration == self._pool_iterations - 1
        momentum = {} if is_last_epoch else replace(after, weights={}).tensors
        return DistillState({**kept, **members, **momentum})

    def _path(self, context: DistillContext) -> DistillContext:
        return context if self.trajectory_seed is None else replace(context, seed=self.trajectory_seed)


def _name(member: int, name: str) -> str:
    """Returns the name of a pool member's tensor in the state."""
    return f"pool/{member}/{name}"
