"""Gradient matching: optimises images along the training paths of networks, one network after another, class by class.

This is the common part of DC, DSA, IDC and Acc-DD, with options for their differences. One iteration is one step of the images
and the network training that follows it; the network and its momentum are part of the state.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from pruneyard.workloads.data.multi_formation import decode, decode_labels
from pruneyard.workloads.distill import flop_counting, matching
from pruneyard.workloads.distill.augment import SampledTransforms, Strategy
from pruneyard.workloads.distill.compiled import compile_gradients
from pruneyard.workloads.distill.distiller import DistillContext, DistillState
from pruneyard.workloads.distill.flop_counting import ProblemSize
from pruneyard.workloads.distill.initial_images import class_labels, momentum_step, normalise
from pruneyard.workloads.distill.masking import Masking
from pruneyard.workloads.distill.matching import GradientFunctions, choose_chunk_size, matched_parameters
from pruneyard.workloads.distill.network_training import LabelledImages, NetworkState, NetworkTraining
from pruneyard.workloads.distill.path_cache import PathCache
from pruneyard.workloads.distill.reduced_precision import BFloat16Gradients
from pruneyard.workloads.seeding import fork_rng, stream_seed

Gradients = list[Tensor]
ClassStep = Literal["batched", "sequential", "sum"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class GradientMatcher:
    """Matches gradients on synthetic images to those on real images.

    The state contains the images, class after class, as tensor `images`, and their momentum as `velocity`.
    steps: steps of the images per network. lr: learning rate of the images.
    pixels: if true, images are pixels, clamped to [0, 1] when a network begins, and normalised before they are masked and
        augmented; otherwise they are normalised images without bounds. The set that is made of them is clamped in any case.
    class_step: `sum`: one step with the gradients of all classes; `sequential`: a step of all images after each class, so that
        momentum moves the images of the other classes too; `batched`: the same in one step (see `batched_step_rate`).
    first_network: returns the network that a path begins with, by its number; first_network_key: describes all that it depends
        on, besides data, model and seed.
    chunk: images per pass on a CPU, for real batches and for the network's training. compile: see `compiled`.
    precision: precision of first-order gradients, see `reduced_precision`.
    trajectory_seed: seed of networks, real images and augmentation, instead of the job's seed.
    share_bytes: disk space for results that are shared with other jobs, see `PathCache`; 0: nothing is shared.
    """

    ipc: int
    factor: int = 1
    steps: int
    real_batch: int
    synthetic_batch: int | None = None  # number of random decoded images per class that are matched in a step; None: all
    lr: float
    momentum: float
    class_step: ClassStep
    pixels: bool
    distance: str
    classifier: bool
    strategy: Strategy
    network_strategy: Strategy
    training: NetworkTraining
    mask: Masking
    chunk: int | None
    compile: bool = False
    precision: Precision = "float32"
    first_network: Callable[[DistillContext, int], nn.Module]
    first_network_key: str = ""
    trajectory_seed: int | None = None
    share_bytes: int = 0

    def path_context(self, context: DistillContext) -> DistillContext:
        """Returns the context with the seed of the path of networks."""
        return context if self.trajectory_seed is None else replace(context, seed=self.trajectory_seed)

    def flops(self, iterations: int, problem: ProblemSize) -> float:
        """Returns the FLOPs of the first `iterations` steps, without those of making the first networks of the paths."""
        num_synthetic = self.ipc * self.factor**2
        num_synthetic = num_synthetic if self.synthetic_batch is None else min(num_synthetic, self.synthetic_batch)
        real_flops = flop_counting.first_order_flops(problem.network_spec, classifier=self.classifier)
        synthetic_flops = flop_counting.second_order_flops(problem.network_spec, classifier=self.classifier)
        num_real = problem.num_sampled(self.real_batch)
        step_flops = num_real * real_flops + problem.num_classes * num_synthetic * synthetic_flops
        num_trainings = iterations - iterations // self.steps  # a network is not trained after its last step
        num_images = num_trainings * self.training.num_images
        return iterations * step_flops + num_images * flop_counting.training_flops(problem.network_spec)

    def iterate(self, state: DistillState, iteration: int, context: DistillContext) -> DistillState:
        """Returns the state after a step, counted over all networks."""
        return _Step(matcher=self, context=context, iteration=iteration).run(state)


def batched_step_rate(lr: float, momentum: float, num_classes: int) -> tuple[float, float]:
    """Returns learning rate and momentum of one step of all classes that is equivalent to a step after each class.

    Between two gradients of its own, a class moves by momentum alone, num_classes - 1 times; these moves sum to a geometric
    series. So gradients are computed at the same images. Results differ only by the moves after the last gradient of a class
    that a clamp, or the end of the distillation, cuts off.
    """
    # Momentum acts once per class.
    total_momentum = momentum**num_classes
    return lr * (1 - total_momentum) / (1 - momentum), total_momentum


@dataclass(frozen=True, kw_only=True)
class _Step:
    """One iteration. Its random numbers do not depend on the synthetic set, except those of the streams `subset` and `mask`."""

    matcher: GradientMatcher
    context: DistillContext
    iteration: int

    @cached_property
    def path_context(self) -> DistillContext:
        return self.matcher.path_context(self.context)

    @cached_property
    def gradient_functions(self) -> GradientFunctions:
        functions: GradientFunctions = matching
        if self.matcher.compile:
            real = self.context.real
            functions = compile_gradients(self.context.model, real.split.image_shape, real.num_classes)
        return functions if self.matcher.precision == "float32" else BFloat16Gradients(functions)

    @cached_property
    def path_cache(self) -> PathCache | None:
        """The cache of the path; None if the path depends on the synthetic set or is not to be shared."""
        m = self.matcher
        if not m.share_bytes or not self.context.data or m.training.train_on == "synthetic":
            return None
        # What only the images depend on (ipc, factor, lr, momentum, distance, mask ...) is left out: such jobs share a path.
        settings = (
            m.steps,
            m.real_batch,
            m.classifier,
            m.strategy,
            m.network_strategy,
            m.training,
            m.chunk,
            m.compile,
            m.precision,
        )
        description = (self.context.data, self.context.model, self.path_context.seed, settings, m.first_network_key)
        return PathCache.for_path(description=repr(description), device=self.context.device, limit_bytes=m.share_bytes)

    def run(self, state: DistillState) -> DistillState:
        """Moves the images and trains the network."""
        m = self.matcher
        number, step = divmod(self.iteration, m.steps)
        images, velocity = state.tensors["images"], state.tensors["velocity"]
        if step == 0 and m.pixels:
            # Only when a network begins: in between, pixels may leave [0, 1].
            images = images.clamp(0, 1)
        if step:
            network_state = NetworkState.from_tensors(state.tensors)
        else:
            network_state = NetworkState.initial(m.first_network(self.path_context, number))
        network, is_last_step = network_state.network(self.context), step == m.steps - 1
        parameters = matched_parameters(network, classifier=m.classifier)
        cached = self.path_cache.get(self.iteration, self.context.device) if self.path_cache else None
        # Sampled even if the gradients are cached: the synthetic images are augmented with the same transforms.
        transforms, real_rows = self._sample_transforms_and_rows()
        if cached is None:
            # All classes before any image moves: these gradients do not depend on the images, which is why they can be cached.
            with self._path_rng("real"):
                targets = self._real_gradients(network, parameters, transforms, real_rows)
        else:
            targets = _unpack_gradients(cached)
        images, velocity, loss = self._move_images(network, parameters, images, velocity, transforms, targets)
        if cached is not None:
            network_tensors = NetworkState.from_tensors(cached).tensors
        else:
            with self._path_rng("train"):
                # After its last step the network is replaced, so its training would be lost.
                network_tensors = {} if is_last_step else self._train_network(network, network_state, images).tensors
            if self.path_cache:
                self.path_cache.put(self.iteration, {**_pack_gradients(targets), **network_tensors})
        tensors = {"images": images, "velocity": velocity, **network_tensors}
        return DistillState(tensors, {"matching_loss": float(loss) / self.context.real.num_classes})

    def _path_rng(self, name: str) -> AbstractContextManager[None]:
        """Seeds the global generators, for dropout, by the path: a step that the cache holds uses none of their numbers."""
        return fork_rng(self.context.device, stream_seed(self.path_context.seed, f"distill/{name}", self.iteration))

    def _move_images(
        self,
        network: nn.Module,
        parameters: Sequence[Tensor],
        images: Tensor,
        velocity: Tensor,
        transforms: Sequence[SampledTransforms],
        targets: Sequence[Gradients],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns images and velocity after the step, and the sum of the losses over classes."""
        m, num_classes = self.matcher, self.context.real.num_classes
        subset, masks = (self.context.stream(name, self.iteration) for name in ("subset", "mask"))
        total, gradient = torch.zeros((), device=images.device), torch.zeros_like(images)
        for label in range(num_classes):
            rows = slice(label * m.ipc, (label + 1) * m.ipc)
            leaf = images[rows].detach().requires_grad_()
            inputs = self._network_inputs(leaf, subset, masks, transforms[label])
            labels = torch.full((len(inputs),), label, device=inputs.device)
            loss, input_gradient = self.gradient_functions.match_gradients(
                network, parameters, inputs, labels, targets[label], distance=m.distance
            )
            # `match_gradients` detaches its images, so the chain rule through decoding, masks and transforms follows here.
            (gradient[rows],) = torch.autograd.grad(inputs, leaf, input_gradient)
            total += loss
            if m.class_step == "sequential":
                images, velocity = momentum_step(images, velocity, gradient, lr=m.lr, momentum=m.momentum)
                gradient = torch.zeros_like(images)
        if m.class_step == "sequential":
            return images, velocity, total
        lr, momentum = m.lr, m.momentum
        if m.class_step == "batched":
            lr, momentum = batched_step_rate(m.lr, m.momentum, num_classes)
        return *momentum_step(images, velocity, gradient, lr=lr, momentum=momentum), total

    def _sample_transforms_and_rows(self) -> tuple[list[SampledTransforms], list[Tensor]]:
        """Samples the transforms and the real rows of each class."""
        generator, transforms, rows = self.path_context.stream("real", self.iteration), [], []
        for label in range(self.context.real.num_classes):
            rows.append(self.context.real.sample_rows(label, self.matcher.real_batch, generator))
            transforms.append(self.matcher.strategy.sample(generator))
        return transforms, rows

    def _real_gradients(
        self,
        network: nn.Module,
        parameters: Sequence[Tensor],
        transforms: Sequence[SampledTransforms],
        rows: Sequence[Tensor],
    ) -> list[Gradients]:
        """Returns the gradients of each class on its real images."""
        gradients = []
        for label, (transform, class_rows) in enumerate(zip(transforms, rows, strict=True)):
            images = transform(self.context.real.images(class_rows))
            labels = torch.full((len(images),), label, device=images.device)
            chunk = choose_chunk_size(network, images, self.matcher.chunk)
            gradients.append(self.gradient_functions.chunked_gradient(network, parameters, images, labels, chunk=chunk))
        return gradients

    def _network_inputs(
        self, stored: Tensor, subset: torch.Generator, masks: torch.Generator, transform: SampledTransforms
    ) -> Tensor:
        """Returns the inputs of the network for the stored images of one class: decoded, normalised, masked and augmented."""
        m = self.matcher
        images = decode(stored, m.factor)
        if m.synthetic_batch is not None and len(images) > m.synthetic_batch:
            rows = torch.randperm(len(images), generator=subset)[: m.synthetic_batch]
            images = images[rows.to(images.device)]
        return transform(m.mask(normalise(images, self.context) if m.pixels else images, masks))

    def _train_network(self, network: nn.Module, network_state: NetworkState, images: Tensor) -> NetworkState:
        """Returns the state of the network after the training that follows the step."""
        m, real = self.matcher, self.context.real
        training_images = LabelledImages.from_real_set(real)
        if m.training.train_on == "synthetic":
            decoded = decode(images, m.factor)
            labels = class_labels(real.num_classes, m.ipc).to(images.device)
            inputs = normalise(decoded, self.context) if m.pixels else decoded
            training_images = LabelledImages.from_tensors(
                inputs, decode_labels(labels, m.factor), num_classes=real.num_classes
            )
        return m.training.run(
            network,
            network_state.momentum,
            training_images,
            self.path_context.stream("train", self.iteration),
            strategy=m.network_strategy,
            chunk=m.chunk,
            gradient_functions=self.gradient_functions,
        )


REAL_PREFIX = "real/"  # starts the names of real gradients in the cache; class and layer follow


def _pack_gradients(gradients: Sequence[Gradients]) -> dict[str, Tensor]:
    return {
        f"{REAL_PREFIX}{label}/{layer}": gradient
        for label, class_gradients in enumerate(gradients)
        for layer, gradient in enumerate(class_gradients)
    }


def _unpack_gradients(tensors: Mapping[str, Tensor]) -> list[Gradients]:
    # Sorted as numbers: as text, layer 10 would precede layer 2.
    indices = sorted(
        tuple(map(int, name.removeprefix(REAL_PREFIX).split("/"))) for name in tensors if name.startswith(REAL_PREFIX)
    )
    gradients: list[Gradients] = [[] for _ in range(indices[-1][0] + 1)]
    for label, layer in indices:
        gradients[label].append(tensors[f"{REAL_PREFIX}{label}/{layer}"])
    return gradients
