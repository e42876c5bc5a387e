"""The state of a running training: network, masks, optimizer, counters, and the operations of one step on them."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.execution.dense_views import DenseViews
from pruneyard.workloads.execution.layers import Execution, SparseLayers
from pruneyard.workloads.interfaces import (
    GradientRule,
    LossInputs,
    Network,
    PixelRange,
    RuleState,
    SplitLogits,
    Tensors,
    computed_loss,
)
from pruneyard.workloads.masks.explored import Explored, with_mask
from pruneyard.workloads.masks.masks import prunable_weights
from pruneyard.workloads.masks.sparse_index import copy_of
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.networks.flops import forward_flops, macs_of
from pruneyard.workloads.networks.last_layer import last_weight_name
from pruneyard.workloads.ranks import SINGLE_RANK, Ranks
from pruneyard.workloads.seeding import fork_rng, seed_globally, stream, stream_seed
from pruneyard.workloads.training.applied_masks import AppliedMasks
from pruneyard.workloads.training.backward import Backward, EpochStart, NetworkTensors, StepBatch
from pruneyard.workloads.training.functional_network import FunctionalModule
from pruneyard.workloads.training.loss_buffer import LossBuffer
from pruneyard.workloads.training.loss_scale import make_loss_scale
from pruneyard.workloads.training.mask_updater import MaskUpdater, SparseState, UpdateContext
from pruneyard.workloads.training.recipe import Recipe
from pruneyard.workloads.training.sparse_start import start_network
from pruneyard.workloads.training.step_flops import StepFlops
from pruneyard.workloads.training.weight_averaging import WeightMean
from pruneyard.workloads.workload import InterruptedJobError, Metric

NOT_DUE = -1  # value of `update_due_at` while no mask update is pending


@dataclass(kw_only=True)
class Training:
    """The mutable state of a training job; `pruneyard.workloads.training.loop` decides when each of its operations runs."""

    recipe: Recipe
    method: MaskUpdater
    seed: int
    num_steps: int
    rows: DeviceSplit  # the training rows
    network: nn.Module
    forward: Network  # the network, compiled if the budget says so
    weights: Mapping[str, nn.Parameter]  # the prunable ones
    macs: Mapping[str, int]  # multiply-adds per image of each prunable weight
    optimizer: torch.optim.Optimizer
    applied: AppliedMasks
    network_tensors: NetworkTensors
    backward: Backward
    pixels: PixelRange | None
    class_counts: Tensor  # (K,) int64, of the training rows
    rule: RuleState  # state of the gradient rule
    memory: Tensors  # state of the objective
    explored: dict[str, Explored]  # by mask name: the weights that were active in some step
    losses: LossBuffer
    step: int = 0
    update_due_at: int = NOT_DUE  # step at which the pending mask update was due
    gradients_are_finite: bool = True  # of this step; in float16 they may overflow
    train_flops: float = 0.0
    train_s: float = 0.0
    history: list[Metric] = field(default_factory=list)
    mean: WeightMean = field(default_factory=WeightMean)  # of the weight samples that the recipe averages
    mean_buffers: tuple[int, Tensors] = (0, {})  # number of averaged samples, and the buffers computed for their mean
    flops: StepFlops = StepFlops()
    _clock_started: float = 0.0

    @classmethod
    def start(
        cls,
        model: ModelBuilder,
        *,
        recipe: Recipe,
        method: MaskUpdater,
        seed: int,
        rows: DeviceSplit,
        num_classes: int,
        ranks: Ranks = SINGLE_RANK,
        execution: Execution = "masked",
    ) -> "Training":
        """Initialises a network on the device of the training `rows` and applies the initial masks of the method.

        execution: whether weights with masks are stored sparse, see `pruneyard.workloads.execution`.

        Raises `ValueError` if the device cannot compute in the budget's precision, or if a rank would get no rows.
        """
        num_outputs = num_classes + recipe.objective.num_extra
        network, initial_masks, deferred = start_network(
            lambda: model.build(image_shape=rows.image_shape, num_classes=num_outputs),
            recipe=recipe,
            method=method,
            seed=seed,
            image_shape=rows.image_shape,
            defers=execution == "sparse" and rows.device.type == "cpu",
        )
        weights = prunable_weights(network)
        layout = torch.channels_last if recipe.budget.channels_last else torch.preserve_format
        network = network.to(rows.device).to(memory_format=layout)
        seed_globally(stream_seed(seed, ranks.stream_name("forward")), device=rows.device)  # for random layers such as dropout
        network_tensors = NetworkTensors.of(network)
        num_steps = recipe.budget.num_steps(len(rows))
        macs = macs_of(model, rows.image_shape, num_outputs)
        share = ranks.share(min(recipe.budget.batch_size, len(rows)))

        def dropout_stream(step: int) -> torch.Generator | None:
            update_only = method.replaces_step and method.is_due(step, num_steps=num_steps)
            return None if update_only else stream(seed, "weight-dropout", step)

        training = cls(
            recipe=recipe,
            method=method,
            seed=seed,
            num_steps=num_steps,
            rows=rows,
            network=network,
            forward=torch.compile(network) if recipe.budget.compile else network,
            weights=weights,
            macs=macs,
            optimizer=recipe.optimizer.build(network.named_parameters()),
            applied=AppliedMasks(
                weights,
                method=method,
                dropout=recipe.weight_dropout,
                stream_of=dropout_stream,
                last=last_weight_name(network),
                layers=SparseLayers(
                    network,
                    weights,
                    execution=execution,
                    image_shape=rows.image_shape,
                    macs=macs,
                    share=share,
                    ranks=ranks,
                    deferred=deferred,
                ),
            ),
            network_tensors=network_tensors,
            backward=Backward(
                network_tensors=network_tensors,
                ranks=ranks,
                share=share,
                scale=make_loss_scale(recipe.budget.precision, rows.device),
                synchronises_norms=recipe.budget.batch_norm == "synchronised",
            ),
            pixels=rows.pixels,
            class_counts=torch.bincount(rows.labels.cpu(), minlength=num_classes).to(rows.device),
            rule=RuleState(),
            memory={name: tensor.to(rows.device) for name, tensor in recipe.objective.start().items()},
            explored={},
            losses=LossBuffer.of(recipe.budget.evaluation_interval(len(rows)), rows.device),
        )
        training.apply_masks(initial_masks)
        training.rule = recipe.gradient.start(network_tensors.weights())
        return training

    @property
    def device(self) -> torch.device:
        """The device on which the network is trained."""
        return self.losses.held.device

    @property
    def num_extra(self) -> int:
        """Number of outputs of the network beyond the classes."""
        return self.recipe.objective.num_extra

    @property
    def steps_per_epoch(self) -> int:
        """Number of optimizer steps in one epoch."""
        return self.recipe.budget.steps_per_epoch(len(self.rows))

    @property
    def rows_per_epoch(self) -> int:
        """Number of rows in the whole batches of one epoch."""
        return self.steps_per_epoch * min(self.recipe.budget.batch_size, len(self.rows))

    def autocast(self) -> AbstractContextManager[object]:
        """Returns the autocast context of the budget's precision, for training and evaluation."""
        if self.recipe.budget.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=getattr(torch, self.recipe.budget.precision))

    def compute_loss(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensors]:
        """Returns the loss of a step's batch, with its graph, and the tensors of the objective's memory that changed."""
        loss_inputs = LossInputs(
            network=self.forward,
            images=images,
            labels=labels,
            share=self.backward.share,
            rows=lambda: self.rows.select_step_rows(step, self.recipe.budget.batch_size, self.backward.share, seed=self.seed),
            memory=self.memory,
            pixels=self.pixels,
            eval_mode=self.eval_mode,
            preserve_buffers=self.network_tensors.preserve_buffers,
            make_generator=lambda: stream(self.seed, "objective", step),
            class_counts=self.class_counts,
        )
        with self.autocast(), self.backward.synchronise_norms(self.network):
            loss, memory = computed_loss(self.recipe.objective, loss_inputs)
        return loss, {name: tensor for name, tensor in memory.items() if tensor is not self.memory[name]}

    @contextmanager
    def eval_mode(self) -> Iterator[None]:
        """Sets the network to evaluation mode in the block and back to training mode after it."""
        self.network.eval()
        try:
            yield
        finally:
            self.network.train()

    def differentiate(self, images: Tensor, labels: Tensor, *, rule: GradientRule) -> tuple[Tensor, Tensors]:
        """Fills `.grad` with the dense gradient of the batch; returns the loss and the gradients that the rule corrected.

        images, labels: the rows of this rank. If a gradient is not finite, the states of rule and objective do not change.
        """
        batch = StepBatch(
            network_tensors=self.network_tensors,
            backward=self.backward,
            loss_fn=self.compute_loss,
            step_weights=self.applied.step_weights,
            step=self.step,
            images=images,
            labels=labels,
            count=self.count_flops,
            flops_per_row=self.flops.step,
            forward_flops_per_row=self.flops.loss,
            optimizer=self.optimizer,
            masks=self.applied.masks_of_dense_layers(self.applied.used),
        )
        reads_gradient = self.method.follows_gradient or (self.update_due_at != NOT_DUE and self.method.grows_by_gradient)
        with self.applied.layers.capture(reads_gradient):
            gradient, state = rule.gradient(self.rule, batch)
        self.gradients_are_finite = self.backward.scale.finish_step()
        if self.gradients_are_finite:
            self.rule, self.memory = state, {**self.memory, **batch.memory}
        return gradient.loss, gradient.corrected

    def epoch_start(
        self, batch_of: Callable[[int], tuple[Tensor, Tensor]], *, should_stop: Callable[[], bool] = lambda: False
    ) -> EpochStart:
        """Returns the view of the next epoch for gradient rules; `batch_of` returns the images and labels of a step."""
        return EpochStart(
            network_tensors=self.network_tensors,
            backward=self.backward,
            loss_fn=self.compute_loss,
            step_weights=self.applied.step_weights,
            should_stop=should_stop,
            batch_of=batch_of,
            steps=range(self.step, self.step + self.steps_per_epoch),
            masks=self.applied.masks_of_dense_layers(self.applied.used),
            trained=self.applied.masks_of_dense_layers(self.applied.masks),
            grows_before=self.grows_before,
            count=self.count_flops,
            flops_per_row=self.flops.step,
            dense_flops_per_row=self.flops.growing,
            forward_flops_per_row=self.flops.loss,
            seed=self.seed,
        )

    def on_epoch_start(
        self,
        batch_of: Callable[[int], tuple[Tensor, Tensor]],
        *,
        split_logits: SplitLogits,
        should_stop: Callable[[], bool],
    ) -> None:
        """Calls `on_epoch_start` of the objective and of the gradient rule.

        Raises `InterruptedJobError` when asked to stop, after restoring the state from before the call.
        """
        memory, flops, scale = self.memory, self.train_flops, self.backward.scale.state()
        epoch = self.epoch_start(batch_of, should_stop=should_stop)
        position = {"epoch": epoch.number, "num_epochs": -(-self.num_steps // self.steps_per_epoch)}
        self.memory = self.recipe.objective.on_epoch_start(memory, split_logits=split_logits, **position)
        try:
            self.rule = self.recipe.gradient.on_epoch_start(self.rule, epoch)
        except InterruptedJobError:
            self.memory, self.train_flops = memory, flops
            self.backward.scale.restore(scale)
            raise

    def count_flops(self, flops: float) -> None:
        """Counts work beyond the forward and backward pass of a step, summed over all ranks."""
        self.train_flops += flops

    def record_loss(self, loss: Tensor, *, num_rows: int, grows: bool) -> None:
        """Stores the loss on the device and counts the FLOPs of the step; `grows`: with the dense gradient."""
        self.losses.record(loss, step=self.step)
        self.train_flops += num_rows * (self.flops.growing if grows else self.flops.step)

    def start_clock(self) -> None:
        """Starts to count training time."""
        self._clock_started = time.monotonic()

    def stop_clock(self) -> None:
        """Waits until the device has finished its work, then stops to count training time."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.train_s += time.monotonic() - self._clock_started

    def gradients(self) -> Mapping[str, Tensor]:
        """Returns the gradients of the prunable weights in their dense shapes, made on access; see `SparseLayers.gradient`."""
        return DenseViews(self.weights, self.applied.layers.gradient)

    def is_due(self) -> bool:
        """Returns whether this step updates the masks.

        An update that was due at a step whose gradients overflowed stays pending until the next finite step. Otherwise a
        method that prunes only once, or gradually to a target, would miss its target density.
        """
        if self.method.is_due(self.step, num_steps=self.num_steps):
            self.update_due_at = self.step
        return self.update_due_at != NOT_DUE

    def grows_before(self, end: int) -> bool:
        """Returns whether masks will grow by gradient from now on, before step `end`; a pending update counts."""
        if not (self.method.grows_by_gradient or self.method.follows_gradient):
            return False
        steps = range(self.step, min(end, self.num_steps))
        return self.update_due_at != NOT_DUE or any(self.method.is_due(step, num_steps=self.num_steps) for step in steps)

    def observe_gradients(self) -> None:
        """Passes the gradients of the step to a method that follows them."""
        if self.method.follows_gradient:
            self.applied.tensors = self.method.observe_gradients(self.applied.state, self.gradients()).tensors

    def updated_masks(self) -> SparseState:
        """Returns the state after the mask update, without applying it.

        The update uses the uncorrected gradient of the batch, and the random stream of the step at which it was due.
        """
        self.losses.check()
        step, self.update_due_at = self.update_due_at, NOT_DUE
        context = UpdateContext(
            step=step,
            num_steps=self.num_steps,
            weights=DenseViews(self.weights, self.applied.layers.weight),
            gradients=self.gradients(),
            stored=self.applied.stored,
            can_be_index=self.applied.can_be_index,
            generator=stream(self.seed, "mask-update", step),
            network=FunctionalModule(
                network=self.network,
                network_tensors=self.network_tensors,
                split=self.rows,
                count_flops=self.count_flops,
                forward_flops_per_row=forward_flops(self.macs, {}),
            ),
        )
        with fork_rng(self.device, stream_seed(self.seed, "mask-update-forward", step)):
            return self.method.update(self.applied.state, context)

    def apply_masks(self, sparse: SparseState) -> None:
        """Applies a state of the method to the network (see `AppliedMasks.apply`) and recomputes the FLOPs of a step."""
        self.applied.apply(sparse, self.optimizer)
        self.mean = self.recipe.average.start()  # averages samples of one topology: a late update restarts it
        used = self.applied.used  # the masks before an update at step 0 are never used in a step
        self.explored = {n: copy_of(m) if self.step == 0 else with_mask(self.explored[n], m) for n, m in used.items()}
        extra_forwards = self.recipe.objective.extra_forwards
        self.flops = StepFlops.of(self.macs, used=used, trained=self.applied.masks, extra_forwards=extra_forwards)

    def correct_gradients(self, corrected: Tensors) -> None:
        """Replaces the gradients by the corrected ones, adds the extra decay of the method, and masks the result.

        The corrected values are copied into `.grad`, because another memory layout would round differently later.
        """
        if corrected:
            own = self.network_tensors.gradients()
            torch._foreach_copy_([own[name] for name in corrected], list(corrected.values()))
        self.applied.add_extra_decay()
        self.applied.mask_gradients()

    def add_weight_sample(self) -> None:
        """Adds the weights with which the last step computed to the weight mean, if the recipe samples them after this step."""
        average, num_steps = self.recipe.average, self.num_steps
        if not average.is_due(self.step, num_steps=num_steps, steps_per_epoch=self.steps_per_epoch):
            return
        parameters = {name: parameter.detach() for name, parameter in self.network_tensors.parameters.items()}
        self.mean = self.mean.with_sample(parameters | self.applied.sample(self.step - 1))
        if self.step == num_steps and self.network_tensors.buffers:  # statistics for the final mean are work of the training
            self.count_flops(self.rows_per_epoch * self.flops.forward)

    def set_learning_rate(self) -> None:
        """Sets the learning rate of this step in every parameter group."""
        rate = self.recipe.optimizer.lr * self.recipe.schedule.factor(self.step, self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_factor", 1.0)
