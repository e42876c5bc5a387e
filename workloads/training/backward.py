"""Loss and gradient of a training's objective at any weights, without side effects except the counted FLOPs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from pruneyard.workloads.interfaces import Tensors
from pruneyard.workloads.networks.synchronised_norms import synchronised_norms
from pruneyard.workloads.ranks import Ranks, Share
from pruneyard.workloads.seeding import RandomState, fork_rng, random_state, stream, stream_seed
from pruneyard.workloads.training.loss_scale import LossScale
from pruneyard.workloads.workload import InterruptedJobError

LossFn = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensors]]
"""Maps images, labels and their step to the loss, with its graph, and the changed tensors of the objective's memory."""

StepWeights = Callable[[int], AbstractContextManager[object]]
"""Maps a step to a context in which the network holds the weights that this step computes with."""


@dataclass(frozen=True, kw_only=True)
class NetworkTensors:
    """The parameters and buffers of a network, looked up once, and contexts that replace them temporarily."""

    parameters: Mapping[str, nn.Parameter]
    buffers: Mapping[str, tuple[nn.Module, str]]  # by full name: the module that holds the buffer, and its name there
    norms: Sequence[_NormBase]  # the norm layers with running statistics

    @classmethod
    def of(cls, network: nn.Module) -> "NetworkTensors":
        """Returns the tensors of a network, which must not move to another device afterwards."""
        return cls(
            parameters=dict(network.named_parameters()),
            buffers={
                f"{path}.{name}" if path else name: (module, name)
                for path, module in network.named_modules()
                for name, buffer in module.named_buffers(recurse=False)
                if buffer is not None
            },
            norms=[m for m in network.modules() if isinstance(m, _NormBase) and m.track_running_stats],
        )

    def weights(self) -> dict[str, Tensor]:
        """Returns the current parameters and buffers by name: the tensors themselves, not copies."""
        buffers = {name: module.get_buffer(leaf) for name, (module, leaf) in self.buffers.items()}
        return {name: parameter.detach() for name, parameter in self.parameters.items()} | buffers

    def gradients(self) -> dict[str, Tensor]:
        """Returns the `.grad` tensors by parameter name, without parameters that have none."""
        return {name: p.grad for name, p in self.parameters.items() if p.grad is not None}

    @contextmanager
    def preserve_buffers(self) -> Iterator[None]:
        """Restores the buffers after the block, in which they may change."""
        saved = {name: module._buffers[leaf] for name, (module, leaf) in self.buffers.items()}
        try:
            for module, leaf in self.buffers.values():
                module._buffers[leaf] = module.get_buffer(leaf).clone()
            yield
        finally:
            for name, (module, leaf) in self.buffers.items():
                module._buffers[leaf] = saved[name]

    def statistics(self) -> list[Tensor]:
        """Returns the running means and variances of the norm layers: the tensors themselves, not copies."""
        statistics = [tensor for norm in self.norms for tensor in (norm.running_mean, norm.running_var)]
        return [tensor for tensor in statistics if tensor is not None]

    @contextmanager
    def swap_weights(self, weights: Tensors) -> Iterator[None]:
        """Puts weights into the network for the block, with copies of the given buffers and without gradients.

        Restores parameters, gradients and buffers after it.
        """
        saved_parameters = {name: (p.data, p.grad) for name, p in self.parameters.items()}
        saved = {name: module._buffers[leaf] for name, (module, leaf) in self.buffers.items()}
        try:
            for name, parameter in self.parameters.items():
                parameter.data, parameter.grad = weights[name], None
            for name, (module, leaf) in self.buffers.items():
                module._buffers[leaf] = weights[name].clone()
            yield
        finally:
            for name, parameter in self.parameters.items():
                parameter.data, parameter.grad = saved_parameters[name]
            for name, (module, leaf) in self.buffers.items():
                module._buffers[leaf] = saved[name]


@dataclass(frozen=True, kw_only=True)
class Backward:
    """Turns the loss on this rank's rows into loss and gradient of the whole batch, in any precision."""

    network_tensors: NetworkTensors
    ranks: Ranks
    share: Share  # which rows of the batch this rank has
    scale: LossScale
    synchronises_norms: bool = True

    def synchronise_norms(self, network: nn.Module) -> AbstractContextManager[None]:
        """Returns a context in which batch norm uses the statistics of the whole batch, if the budget asks for it."""
        return synchronised_norms(network, ranks=self.ranks, share=self.share) if self.synchronises_norms else nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient on this rank's rows, multiplied by the loss scale, to `.grad`."""
        self.scale.scale_loss(loss).backward()

    def reduce(
        self, loss: Tensor, memory: Tensors, statistics: Sequence[Tensor] = ()
    ) -> tuple[Tensor, Tensors]:
        """Averages `.grad`, loss, memory and statistics over ranks and divides the loss scale out; returns loss and memory."""
        parameters = self.network_tensors.parameters.values()
        averaged = self.ranks.average(
            loss.detach(), memory, share=self.share, parameters=parameters, statistics=statistics
        )
        self.scale.unscale(parameters)
        return averaged


@dataclass(kw_only=True, slots=True)  # not frozen: that would cost some microseconds in every step
class BatchProbe:
    """Implements `pruneyard.workloads.interfaces.Probe`."""

    network_tensors: NetworkTensors
    backward: Backward
    loss_fn: LossFn
    step_weights: StepWeights
    step: int
    images: Tensor  # the rows of this rank
    labels: Tensor
    count: Callable[[float], None]
    flops_per_row: float  # of a forward and a backward pass
    forward_flops_per_row: float
    rng_start: int | RandomState | None = None  # seed or state for the forward pass; None: the current state

    def loss_at(self, weights: Tensors) -> Tensor:
        """Returns the loss, a scalar, without gradient."""
        self.count(self.backward.share.total * self.forward_flops_per_row)
        with torch.no_grad(), self._isolated(weights), self.step_weights(self.step):
            loss, _ = self.loss_fn(self.images, self.labels, self.step)
        return self.backward.ranks.average(loss, {}, share=self.backward.share)[0]

    def gradient_at(self, weights: Tensors) -> tuple[Tensor, Tensors]:
        """Returns the loss, a scalar, and its gradients by parameter name."""
        self.count(self.backward.share.total * self.flops_per_row)
        with self._isolated(weights):
            with self.step_weights(self.step):
                loss, _ = self.loss_fn(self.images, self.labels, self.step)
                self.backward.backward(loss)
            loss, _ = self.backward.reduce(loss, {})
            return loss, self.network_tensors.gradients()

    @contextmanager
    def _isolated(self, weights: Tensors) -> Iterator[None]:
        with fork_rng(self.images.device, self.rng_start), self.network_tensors.swap_weights(weights):
            yield


@dataclass(kw_only=True, slots=True)
class EpochStartBatch(BatchProbe):
    """A batch shown at the start of an epoch; its gradient is used for many steps, so one that overflows is recomputed."""

    masks: Tensors  # outside which gradients are not computed

    def gradient_at(self, weights: Tensors) -> tuple[Tensor, Tensors]:
        """Returns loss and gradient, zero outside the masks, recomputed with half the loss scale until they are finite."""
        loss, gradient = BatchProbe.gradient_at(self, weights)
        while self.backward.scale.must_retry():
            loss, gradient = BatchProbe.gradient_at(self, weights)
        for name in self.masks.keys() & gradient.keys():
            gradient[name].mul_(self.masks[name])
        return loss, gradient


@dataclass(kw_only=True, slots=True)
class StepBatch(BatchProbe):
    """Implements `pruneyard.workloads.interfaces.Batch`. The training itself counts the FLOPs of `differentiate`."""

    optimizer: torch.optim.Optimizer
    masks: Tensors
    memory: Tensors = field(default_factory=dict)  # of the objective: tensors that `differentiate` changed

    @property
    def weights(self) -> Tensors:
        """The current parameters and buffers of the network."""
        return self.network_tensors.weights()

    def differentiate(self) -> Tensor:
        """Returns the loss at the current weights and fills `.grad`."""
        self.optimizer.zero_grad(set_to_none=True)
        self.rng_start = random_state(self.images.device)
        with self.step_weights(self.step):
            loss, memory = self.loss_fn(self.images, self.labels, self.step)
            self.backward.backward(loss)
        loss, self.memory = self.backward.reduce(loss, memory, self.network_tensors.statistics())
        return loss

    def own_gradient(self) -> Tensors:
        """Returns the gradients that `differentiate` computed."""
        return self.network_tensors.gradients()


@dataclass(frozen=True, kw_only=True)
class EpochStart:
    """Implements `pruneyard.workloads.interfaces.Epoch`."""

    network_tensors: NetworkTensors
    backward: Backward
    loss_fn: LossFn
    step_weights: StepWeights
    should_stop: Callable[[], bool]
    batch_of: Callable[[int], tuple[Tensor, Tensor]]  # images and labels of a step
    steps: range  # of the epoch
    masks: Tensors  # of the weights that the network computes with
    trained: Tensors  # masks of the weights that are trained
    grows_before: Callable[[int], bool]  # whether masks will grow by gradient before a step
    count: Callable[[float], None]
    flops_per_row: float  # with the gradient of the trained weights
    dense_flops_per_row: float  # with the dense gradient
    forward_flops_per_row: float
    seed: int

    @property
    def number(self) -> int:
        """Index of the epoch, from 0."""
        return self.steps.start // len(self.steps)

    @property
    def weights(self) -> Tensors:
        """The current parameters and buffers of the network."""
        return self.network_tensors.weights()

    def gradient_masks(self, num_epochs: int) -> Tensors:
        """Returns the masks of the trained weights, or none if masks grow by gradient in the next `num_epochs` epochs.

        A growth at their last step comes too late: no gradient of this moment is used after it.
        """
        last = self.steps.start + num_epochs * len(self.steps) - 1
        return {} if self.grows_before(last) else self.trained

    def batches(self, fraction: float, masks: Tensors = MappingProxyType({})) -> Iterator[EpochStartBatch]:
        """Yields a random share of the epoch's batches, in the order of their steps.

        The choice of batches and the randomness of their forward passes come from random streams of this epoch alone. Raises
        `InterruptedJobError` between two batches when the job is asked to stop.
        """
        num = max(1, round(fraction * len(self.steps)))
        positions = torch.randperm(len(self.steps), generator=stream(self.seed, "look", self.number))[:num]
        for position in sorted(positions.tolist()):
            if self.should_stop():
                raise InterruptedJobError(self.steps.start)
            step = self.steps[position]
            images, labels = self.batch_of(step)
            yield EpochStartBatch(
                network_tensors=self.network_tensors,
                backward=self.backward,
                loss_fn=self.loss_fn,
                step_weights=self.step_weights,
                step=step,
                images=images,
                labels=labels,
                count=self.count,
                flops_per_row=self.flops_per_row if masks else self.dense_flops_per_row,
                forward_flops_per_row=self.forward_flops_per_row,
                masks=masks,
                rng_start=stream_seed(self.seed, self.backward.ranks.stream_name("look-forward"), step),
            )
