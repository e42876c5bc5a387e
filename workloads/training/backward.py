"""Asks a training's objective for loss and gradient at any weights and leaves no trace but the work that is counted."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from pruneyard.workloads.interfaces import Tensors
from pruneyard.workloads.networks.shared_norms import shared_norms
from pruneyard.workloads.ranks import Ranks, Share
from pruneyard.workloads.seeding import RandomState, fork_rng, random_state, stream, stream_seed
from pruneyard.workloads.training.loss_scale import LossScale
from pruneyard.workloads.workload import InterruptedJobError

LossOf = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensors]]


"""Images and labels, and the step they belong to, to the objective, ready to be differentiated, and what it remembers."""


InStep = Callable[[int], AbstractContextManager[object]]


"""The block of a step: inside, the network computes with the weights that the step computes with."""


@dataclass(frozen=True, kw_only=True)
class Prober:
    """A network's tensors, found once, and the two blocks inside which they may be something else."""

    parameters: Mapping[str, nn.Parameter]
    buffers: Mapping[str, tuple[nn.Module, str]]  # the module that holds it, and its name there
    norms: Sequence[_NormBase]  # those with running statistics

    @classmethod
    def of(cls, network: nn.Module) -> "Prober":
        """Of a network on its device."""
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
        """The network's own tensors, parameters and buffers, as they stand."""
        buffers = {name: module.get_buffer(leaf) for name, (module, leaf) in self.buffers.items()}
        return {name: parameter.detach() for name, parameter in self.parameters.items()} | buffers

    def gradients(self) -> dict[str, Tensor]:
        """What is in `.grad`, by parameter."""
        return {name: p.grad for name, p in self.parameters.items() if p.grad is not None}

    @contextmanager
    def keeping_buffers(self) -> Iterator[None]:
        """Inside the block the buffers may move; after it they are those, with the values, that they were."""
        held = {name: module._buffers[leaf] for name, (module, leaf) in self.buffers.items()}
        try:
            for module, leaf in self.buffers.values():
                module._buffers[leaf] = module.get_buffer(leaf).clone()
            yield
        finally:
            for name, (module, leaf) in self.buffers.items():
                module._buffers[leaf] = held[name]

    def statistics(self) -> list[Tensor]:
        """The norms' own running means and variances."""
        held = [tensor for norm in self.norms for tensor in (norm.running_mean, norm.running_var)]
        return [tensor for tensor in held if tensor is not None]

    @contextmanager
    def swap_weights(self, weights: Tensors) -> Iterator[None]:
        """Inside the block the network has these weights, no gradients, and buffers that are thrown away after it."""
        values = {name: (p.data, p.grad) for name, p in self.parameters.items()}
        held = {name: module._buffers[leaf] for name, (module, leaf) in self.buffers.items()}
        try:
            for name, parameter in self.parameters.items():
                parameter.data, parameter.grad = weights[name], None
            for name, (module, leaf) in self.buffers.items():
                module._buffers[leaf] = weights[name].clone()
            yield
        finally:
            for name, parameter in self.parameters.items():
                parameter.data, parameter.grad = values[name]
            for name, (module, leaf) in self.buffers.items():
                module._buffers[leaf] = held[name]


@dataclass(frozen=True, kw_only=True)
class Backward:
    """From the loss of the rows that are here to loss and gradient of the whole batch, in any precision."""

    prober: Prober
    ranks: Ranks
    share: Share  # of the batch, the rows that are here
    scale: LossScale
    shares_norms: bool = True

    def one_batch(self, network: nn.Module) -> AbstractContextManager[None]:
        """In the block what passes through the network is this rank's share of one batch."""
        return shared_norms(network, ranks=self.ranks, share=self.share) if self.shares_norms else nullcontext()

    def begin(self, loss: Tensor) -> None:
        """Fills `.grad`, scaled, from the rows that are here."""
        self.scale.scaled(loss).backward()

    def finish(
        self, loss: Tensor, memory: Tensors, statistics: Sequence[Tensor] = ()
    ) -> tuple[Tensor, Tensors]:
        """Makes `.grad` that of the batch; returns its loss and what the objective remembers of it."""
        parameters = self.prober.parameters.values()
        found = self.ranks.average(
            loss.detach(), memory, share=self.share, parameters=parameters, statistics=statistics
        )
        self.scale.unscale(parameters)
        return found


@dataclass(kw_only=True, slots=True)  # not frozen, which costs some microseconds: one is made every step
class BatchProbe:
    """See `pruneyard.workloads.interfaces.Probe`."""

    prober: Prober
    backward: Backward
    loss_of: LossOf
    in_step: InStep
    step: int
    images: Tensor  # the rows that are here
    labels: Tensor
    count: Callable[[float], None]
    flops_per_row: float  # of a forward and a backward pass
    forward_flops_per_row: float
    draws: int | RandomState | None = None  # what the forward pass draws; None: what comes next in the training

    def loss_at(self, weights: Tensors) -> Tensor:
        """A scalar."""
        self.count(self.backward.share.total * self.forward_flops_per_row)
        with torch.no_grad(), self._apart_at(weights), self.in_step(self.step):
            loss, _ = self.loss_of(self.images, self.labels, self.step)
        return self.backward.ranks.average(loss, {}, share=self.backward.share)[0]

    def gradient_at(self, weights: Tensors) -> tuple[Tensor, Tensors]:
        """The loss and its gradient."""
        self.count(self.backward.share.total * self.flops_per_row)
        with self._apart_at(weights):
            with self.in_step(self.step):
                loss, _ = self.loss_of(self.images, self.labels, self.step)
                self.backward.begin(loss)
            loss, _ = self.backward.finish(loss, {})
            return loss, self.prober.gradients()

    @contextmanager
    def _apart_at(self, weights: Tensors) -> Iterator[None]:
        with fork_rng(self.images.device, self.draws), self.prober.swap_weights(weights):
            yield


@dataclass(kw_only=True, slots=True)
class LookBatch(BatchProbe):
    """A batch of a look: what it says is kept for long, so a gradient that overflows is taken again."""

    def gradient_at(self, weights: Tensors) -> tuple[Tensor, Tensors]:
        """At a smaller scale, until it is finite."""
        found = BatchProbe.gradient_at(self, weights)
        while self.backward.scale.wants_again():
            found = BatchProbe.gradient_at(self, weights)
        return found


@dataclass(kw_only=True, slots=True)
class StepBatch(BatchProbe):
    """See `pruneyard.workloads.interfaces.Batch`. What `differentiate` itself costs is counted by the training."""

    optimizer: torch.optim.Optimizer
    masks: Tensors
    memory: Tensors = field(default_factory=dict)  # of the objective, after `differentiate`

    @property
    def weights(self) -> Tensors:
        """As they stand."""
        return self.prober.weights()

    def differentiate(self) -> Tensor:
        """The loss at the weights as they stand; their gradient is in `.grad`."""
        self.optimizer.zero_grad(set_to_none=True)
        self.draws = random_state(self.images.device)
        with self.in_step(self.step):
            loss, memory = self.loss_of(self.images, self.labels, self.step)
            self.backward.begin(loss)
        loss, self.memory = self.backward.finish(loss, memory, self.prober.statistics())
        return loss

    def own_gradient(self) -> Tensors:
        """What `differentiate` left."""
        return self.prober.gradients()


@dataclass(frozen=True, kw_only=True)
class EpochStart:
    """See `pruneyard.workloads.interfaces.Epoch`."""

    prober: Prober
    backward: Backward
    loss_of: LossOf
    in_step: InStep
    should_stop: Callable[[], bool]
    batch_of: Callable[[int], tuple[Tensor, Tensor]]  # images and labels of a step
    steps: range  # of the epoch
    masks: Tensors
    count: Callable[[float], None]
    flops_per_row: float
    forward_flops_per_row: float
    seed: int

    @property
    def number(self) -> int:
        """From 0."""
        return self.steps.start // len(self.steps)

    @property
    def weights(self) -> Tensors:
        """As they stand."""
        return self.prober.weights()

    def batches(self, fraction: float) -> Iterator[LookBatch]:
        """In the order of their steps; which ones, and what their passes draw, is of this epoch's own streams.

        Raises `InterruptedJobError` between two batches when the job is asked to stop.
        """
        num = max(1, round(fraction * len(self.steps)))
        drawn = torch.randperm(len(self.steps), generator=stream(self.seed, "look", self.number))[:num]
        for position in sorted(drawn.tolist()):
            if self.should_stop():
                raise InterruptedJobError(self.steps.start)
            step = self.steps[position]
            images, labels = self.batch_of(step)
            yield LookBatch(
                prober=self.prober,
                backward=self.backward,
                loss_of=self.loss_of,
                in_step=self.in_step,
                step=step,
                images=images,
                labels=labels,
                count=self.count,
                flops_per_row=self.flops_per_row,
                forward_flops_per_row=self.forward_flops_per_row,
                draws=stream_seed(self.seed, self.backward.ranks.own("look-forward"), step),
            )
