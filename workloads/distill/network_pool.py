"""A pool of networks of different ages that are trained on the current synthetic set and replaced after a number of steps."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from pruneyard.workloads.distill.adaptive_steps import Moments, adam_step
from pruneyard.workloads.distill.distiller import DistillContext
from pruneyard.workloads.distill.kernel_ridge import half_squared_error
from pruneyard.workloads.distill.network_tensors import prefixed_tensors, rebuild_network
from pruneyard.workloads.fields import renamed


@dataclass(frozen=True, kw_only=True)
class NetworkPool:
    """A pool of networks; the defaults are those of FRePo.

    max_online_updates: Adam steps until a member is replaced by a new network. The first members are replaced at staggered
        ages, the last of them at full age; as in the released code of FRePo they begin untrained all the same.
    Memory: three times the parameters per member, in the state and in each checkpoint.
    """

    members: int = 10
    max_online_updates: int = field(default=100, metadata=renamed("lifetime"))
    lr: float = 3e-4

    def __post_init__(self) -> None:
        for name in ("members", "max_online_updates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}; it must be above 0")

    def start(self, context: DistillContext) -> dict[str, Tensor]:
        """Returns the tensors of all members."""
        tensors: dict[str, Tensor] = {}
        for member in range(self.members):
            steps_left = -(-self.max_online_updates * (member + 1) // self.members)
            tensors |= self._new_member(member, steps_left, context.network(f"pool/{member}"))
        return tensors

    def network(self, member: int, tensors: Mapping[str, Tensor], context: DistillContext) -> nn.Module:
        """Returns a copy of a member in training mode."""
        return rebuild_network(_name(member, "weights/"), tensors, context)

    def advance(
        self,
        member: int,
        tensors: Mapping[str, Tensor],
        images: Tensor,
        targets: Tensor,
        context: DistillContext,
        *,
        iteration: int,
    ) -> dict[str, Tensor]:
        """Returns the tensors of a member after an Adam step on half the squared error, or of the network that replaces it."""
        steps_left = int(tensors[_name(member, "left")]) - 1
        if steps_left == 0:
            # The last step is not computed, as its result would not be used. Index 0 belongs to the members of the start.
            return self._new_member(member, self.max_online_updates, context.network(f"pool/{member}", iteration + 1))
        network = self.network(member, tensors, context)
        loss = half_squared_error(network(images), targets)
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))])
        moments = Moments(*(tensors[_name(member, moment)] for moment in Moments._fields))
        steps = int(tensors[_name(member, "steps")])
        moved, moments = adam_step(
            parameters_to_vector(network.parameters()).detach(), gradient, moments, step=steps, lr=self.lr
        )
        vector_to_parameters(moved, network.parameters())
        return self._tensors(member, network, moments, steps_left=steps_left, steps=steps + 1)

    def _new_member(self, member: int, steps_left: int, network: nn.Module) -> dict[str, Tensor]:
        moments = Moments.zero(parameters_to_vector(network.parameters()).detach())
        return self._tensors(member, network, moments, steps_left=steps_left, steps=0)

    def _tensors(
        self, member: int, network: nn.Module, moments: Moments, *, steps_left: int, steps: int
    ) -> dict[str, Tensor]:
        # As tensors, since the numbers of a state are reported as metrics.
        counts = {"left": torch.tensor(steps_left), "steps": torch.tensor(steps)}
        optimizer_state = {_name(member, name): tensor for name, tensor in (moments._asdict() | counts).items()}
        weights = {name: tensor.clone() for name, tensor in prefixed_tensors(_name(member, "weights/"), network).items()}
        return weights | optimizer_state


def _name(member: int, name: str) -> str:
    """Returns the name of a member's tensor in a state."""
    return f"pool/{member}/{name}"
