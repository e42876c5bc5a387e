"""A pool of networks of different ages, each trained online on a synthetic set as it is, and begun anew when it is old."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from pruneyard.workloads.distill.adaptive_steps import Moments, adam_step
from pruneyard.workloads.distill.distiller import Lab
from pruneyard.workloads.distill.kept_network import kept, rebuilt
from pruneyard.workloads.distill.kernel_ridge import half_squares


@dataclass(frozen=True, kw_only=True)
class NetworkPool:
    """The defaults are those of FRePo. Memory: per member three times the parameters, in the state and in each checkpoint.

    lifetime: Adam's steps until a member begins anew. Those of the first generation die at staggered ages, the last of them
    at full age; published pools train them to staggered ages beforehand (U).
    """

    members: int = 10
    lifetime: int = 100
    lr: float = 3e-4

    def __post_init__(self) -> None:
        for name in ("members", "lifetime"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}; it must be above 0")

    def start(self, lab: Lab) -> dict[str, Tensor]:
        """Tensors of all members."""
        tensors: dict[str, Tensor] = {}
        for member in range(self.members):
            left = -(-self.lifetime * (member + 1) // self.members)
            tensors |= self._born(member, left, lab.network(f"pool/{member}"))
        return tensors

    def network(self, member: int, tensors: Mapping[str, Tensor], lab: Lab) -> nn.Module:
        """A copy, in training mode."""
        return rebuilt(_name(member, "weights/"), tensors, lab)

    def older(
        self, member: int, tensors: Mapping[str, Tensor], images: Tensor, targets: Tensor, lab: Lab, *, iteration: int
    ) -> dict[str, Tensor]:
        """Tensors of a member after a step of Adam on half the squared error, or of its successor."""
        left = int(tensors[_name(member, "left")]) - 1
        if left == 0:
            return self._born(member, self.lifetime, lab.network(f"pool/{member}", iteration + 1))
        network = self.network(member, tensors, lab)
        loss = half_squares(network(images), targets)
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))])
        moments = Moments(*(tensors[_name(member, moment)] for moment in Moments._fields))
        steps = int(tensors[_name(member, "steps")])
        moved, moments = adam_step(
            parameters_to_vector(network.parameters()).detach(), gradient, moments, step=steps, lr=self.lr
        )
        vector_to_parameters(moved, network.parameters())
        return self._tensors(member, network, moments, left=left, steps=steps + 1)

    def _born(self, member: int, left: int, network: nn.Module) -> dict[str, Tensor]:
        moments = Moments.zero(parameters_to_vector(network.parameters()).detach())
        return self._tensors(member, network, moments, left=left, steps=0)

    def _tensors(
        self, member: int, network: nn.Module, moments: Moments, *, left: int, steps: int
    ) -> dict[str, Tensor]:
        counts = {"left": torch.tensor(left), "steps": torch.tensor(steps)}
        own = {_name(member, name): tensor for name, tensor in (moments._asdict() | counts).items()}
        weights = {name: tensor.clone() for name, tensor in kept(_name(member, "weights/"), network).items()}
        return weights | own


def _name(member: int, name: str) -> str:
    """In a state."""
    return f"pool/{member}/{name}"
