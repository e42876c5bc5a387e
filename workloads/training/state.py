"""What a training holds while it runs: network, masks, optimizer and counters."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.interfaces import (
    GradientRule,
    LossInputs,
    Network,
    PixelRange,
    RuleState,
    SplitLogits,
    Tensors,
)
from pruneyard.workloads.masks.masks import prunable_weights
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.networks.flops import forward_flops, macs_of, training_flops
from pruneyard.workloads.networks.statistics import cumulative_statistics
from pruneyard.workloads.ranks import ALONE, Ranks
from pruneyard.workloads.seeding import fork_rng, global_stream, seed_globally, stream, stream_seed
from pruneyard.workloads.training.applied_masks import AppliedMasks
from pruneyard.workloads.training.backward import Backward, EpochStart, Prober, StepBatch
from pruneyard.workloads.training.functional_network import NetworkBench
from pruneyard.workloads.training.loss_buffer import LossLog
from pruneyard.workloads.training.loss_scale import scale_for
from pruneyard.workloads.training.mask_updater import MaskUpdater, SparseState, UpdateContext
from pruneyard.workloads.training.recipe import Recipe
from pruneyard.workloads.training.weight_averaging import Mean
from pruneyard.workloads.workload import InterruptedJobError, Metric, NonFiniteError

EVALUATION_BATCH = 1000  # rows per forward pass; results do not depend on it beyond rounding


NOT_DUE = -1


@dataclass(kw_only=True)
class Training:
    """The mutable middle of a job; `pruneyard.workloads.training.loop` decides what happens to it and when."""

    recipe: Recipe
    method: MaskUpdater
    seed: int
    num_steps: int
    rows: DeviceSplit  # trained on
    network: nn.Module
    forward: Network
    weights: Mapping[str, nn.Parameter]  # prunable
    macs: Mapping[str, int]
    optimizer: torch.optim.Optimizer
    applied: AppliedMasks
    prober: Prober
    backward: Backward
    pixels: PixelRange
    rule: RuleState  # what the recipe's gradient rule remembers
    memory: Tensors  # what the objective remembers
    explored: dict[str, Tensor]  # by mask, True = was used in some step
    losses: LossLog
    step: int = 0
    due_at: int = NOT_DUE  # step whose mask update is to come
    usable: bool = True  # whether the gradients of this step are finite, where float16 may let them overflow
    train_flops: float = 0.0
    train_s: float = 0.0
    history: list[Metric] = field(default_factory=list)
    mean: Mean = field(default_factory=Mean)  # of the weights that the recipe averages
    _refreshed: tuple[int, Tensors] = (0, {})  # number of samples, and the buffers that go with their mean
    _flops_per_row: float = 0.0
    _forward_flops_per_row: float = 0.0
    _loss_flops_per_row: float = 0.0
    _flops_per_growing_row: float = 0.0
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
        ranks: Ranks = ALONE,
    ) -> "Training":
        """A network at its initialisation, on the device of the training `rows`, with the method's first masks applied.

        Raises `ValueError` where the device cannot compute in the budget's precision, or a rank would have no rows.
        """
        num_outputs = num_classes + recipe.objective.num_extra
        with global_stream(seed, "init"):
            network = model.build(image_shape=rows.image_shape, num_classes=num_outputs)
        weights = prunable_weights(network)
        first = method.start({n: w.detach() for n, w in weights.items()}, generator=stream(seed, "masks"))
        layout = torch.channels_last if recipe.budget.channels_last else torch.preserve_format
        network = network.to(rows.device).to(memory_format=layout)
        seed_globally(stream_seed(seed, ranks.own("forward")), device=rows.device)  # for passes that draw
        prober = Prober.of(network)
        num_steps = recipe.budget.num_steps(len(rows))

        def dropout_stream(step: int) -> torch.Generator | None:
            replaced = method.replaces_step and method.is_due(step, num_steps=num_steps)
            return None if replaced else stream(seed, "weight-dropout", step)

        training = cls(
            recipe=recipe,
            method=method,
            seed=seed,
            num_steps=num_steps,
            rows=rows,
            network=network,
            forward=torch.compile(network) if recipe.budget.compile else network,
            weights=prunable_weights(network),
            macs=macs_of(model, rows.image_shape, num_outputs),
            optimizer=recipe.optimizer.build(network.named_parameters()),
            applied=AppliedMasks(
                prunable_weights(network), method=method, dropout=recipe.weight_dropout, stream_of=dropout_stream
            ),
            prober=prober,
            backward=Backward(
                prober=prober,
                ranks=ranks,
                share=ranks.share(min(recipe.budget.batch_size, len(rows))),
                scale=scale_for(recipe.budget.precision, rows.device),
                shares_norms=recipe.budget.batch_norm == "synchronised",
            ),
            pixels=rows.pixels,
            rule=RuleState(),
            memory={name: tensor.to(rows.device) for name, tensor in recipe.objective.start().items()},
            explored={},
            losses=LossLog.of(recipe.budget.evaluation_interval(len(rows)), rows.device),
        )
        training.apply_masks(first)
        training.rule = recipe.gradient.start(prober.weights())
        return training

    @property
    def device(self) -> torch.device:
        return self.losses.held.device

    @property
    def num_extra(self) -> int:
        """Outputs of the network beyond the classes."""
        return self.recipe.objective.num_extra

    @property
    def sparse(self) -> SparseState:
        """The method's state, as applied."""
        return self.applied.state

    @property
    def steps_per_epoch(self) -> int:
        return self.recipe.budget.steps_per_epoch(len(self.rows))

    @property
    def _rows_of_an_epoch(self) -> int:
        return self.steps_per_epoch * min(self.recipe.budget.batch_size, len(self.rows))

    def autocast(self) -> AbstractContextManager[object]:
        """The precision of the budget, for training and evaluation alike."""
        if self.recipe.budget.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=getattr(torch, self.recipe.budget.precision))

    def loss_of(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensors]:
        """The objective of a step's batch, ready to be differentiated, and what it then remembers anew."""
        question = LossInputs(
            network=self.forward,
            images=images,
            labels=labels,
            share=self.backward.share,
            rows=lambda: self.rows.select_step_rows(step, self.recipe.budget.batch_size, self.backward.share, seed=self.seed),
            memory=self.memory,
            pixels=self.pixels,
            at_rest=self.at_rest,
            aside=self.prober.keeping_buffers,
            draws=lambda: stream(self.seed, "objective", step),
        )
        with self.autocast(), self.backward.one_batch(self.network):
            loss, memory = self.recipe.objective.loss(question)
        return loss, {name: tensor for name, tensor in memory.items() if tensor is not self.memory[name]}

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """In the block the network is in evaluation mode."""
        self.network.eval()
        try:
            yield
        finally:
            self.network.train()

    def differentiate(self, images: Tensor, labels: Tensor, *, rule: GradientRule) -> tuple[Tensor, Tensors]:
        """Fills `.grad` with the dense gradient of the batch; returns its loss and what the rule makes of the gradient.

        images, labels: of this rank's rows. Rule and objective remember nothing of gradients that are not usable.
        """
        batch = StepBatch(
            prober=self.prober,
            backward=self.backward,
            loss_of=self.loss_of,
            in_step=self.applied.in_step,
            step=self.step,
            images=images,
            labels=labels,
            count=self.count_flops,
            flops_per_row=self._flops_per_row,
            forward_flops_per_row=self._loss_flops_per_row,
            optimizer=self.optimizer,
            masks=self.sparse.used,
        )
        gradient, state = rule.gradient(self.rule, batch)
        self.usable = self.backward.scale.settle()
        if self.usable:
            self.rule, self.memory = state, {**self.memory, **batch.memory}
        return gradient.loss, gradient.corrected

    def epoch_start(
        self,
        batch_of: Callable[[int], tuple[Tensor, Tensor]],
        *,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> EpochStart:
        """The epoch that begins with the next step; `batch_of` gives images and labels of a step."""
        return EpochStart(
            prober=self.prober,
            backward=self.backward,
            loss_of=self.loss_of,
            in_step=self.applied.in_step,
            should_stop=should_stop,
            batch_of=batch_of,
            steps=range(self.step, self.step + self.steps_per_epoch),
            masks=self.sparse.used,
            count=self.count_flops,
            flops_per_row=self._flops_per_growing_row,
            forward_flops_per_row=self._loss_flops_per_row,
            seed=self.seed,
        )

    def on_epoch_start(
        self,
        batch_of: Callable[[int], tuple[Tensor, Tensor]],
        *,
        answers: SplitLogits,
        should_stop: Callable[[], bool],
    ) -> None:
        """Lets objective and gradient rule look at the epoch that begins.

        Raises `InterruptedJobError` when asked to stop, with everything as it was before.
        """
        memory, flops, scale = self.memory, self.train_flops, self.backward.scale.state()
        epoch = self.epoch_start(batch_of, should_stop=should_stop)
        told = {"epoch": epoch.number, "num_epochs": -(-self.num_steps // self.steps_per_epoch)}
        self.memory = self.recipe.objective.on_epoch_start(memory, answers=answers, **told)
        try:
            self.rule = self.recipe.gradient.on_epoch_start(self.rule, epoch)
        except InterruptedJobError:
            self.memory, self.train_flops = memory, flops
            self.backward.scale.restore(scale)
            raise

    def count_flops(self, flops: float) -> None:
        """Work beyond a step's own forward and backward pass, of all ranks."""
        self.train_flops += flops

    def record_loss(self, loss: Tensor, *, num_rows: int, grows: bool) -> None:
        """Keeps the loss on the device and counts what the step cost."""
        self.losses.record(loss, step=self.step)
        self.train_flops += num_rows * (self._flops_per_growing_row if grows else self._flops_per_row)

    def start_clock(self) -> None:
        """Training time counts from here."""
        self._clock_started = time.monotonic()

    def stop_clock(self) -> None:
        """Training time counts up to here; the device has finished what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.train_s += time.monotonic() - self._clock_started

    def gradients(self) -> dict[str, Tensor]:
        """Dense gradients of the prunable weights; zeros for a weight that the loss did not reach."""
        return {
            name: torch.zeros_like(weight) if weight.grad is None else weight.grad
            for name, weight in self.weights.items()
        }

    def is_due(self) -> bool:
        """Whether this step updates masks: by the method, or for a step whose gradients were not usable.

        Made up for at once, such an update is not lost: a method that prunes in one step or to a schedule gets there.
        """
        if self.method.is_due(self.step, num_steps=self.num_steps):
            self.due_at = self.step
        return self.due_at != NOT_DUE

    def check_updated(self) -> None:
        """Raises `NonFiniteError` at the end where a mask update is still to come: no step after it was finite."""
        if self.due_at != NOT_DUE:
            raise NonFiniteError(f"gradients overflowed from step {self.due_at} to the end, where masks were to be updated")

    def follow_gradients(self) -> None:
        """Shows every step's gradients to a method that remembers them."""
        if self.method.follows_gradient:
            self.applied.state = self.method.observe_gradients(self.sparse, self.gradients())

    def updated_masks(self) -> SparseState:
        """The method's update by the batch's own gradient, drawn from the stream of the step it is due at; not yet applied."""
        self.losses.check()
        step, self.due_at = self.due_at, NOT_DUE
        moment = UpdateContext(
            step=step,
            num_steps=self.num_steps,
            weights={name: weight.detach() for name, weight in self.weights.items()},
            gradients=self.gradients(),
            generator=stream(self.seed, "mask-update", step),
            bench=NetworkBench(
                network=self.network,
                prober=self.prober,
                split=self.rows,
                count_flops=self.count_flops,
                forward_flops_per_row=forward_flops(self.macs, {}),
            ),
        )
        with fork_rng(self.device, stream_seed(self.seed, "mask-update-forward", step)):
            return self.method.update(self.sparse, moment)

    def apply_masks(self, sparse: SparseState) -> None:
        """Takes a method's state over: see `AppliedMasks.apply`."""
        self.applied.apply(sparse, self.optimizer)
        self.mean = self.recipe.average.start()  # of one topology: where an update came late, it begins anew
        used = self.sparse.used  # those before step 0's update, if there is one, are never trained under
        self.explored = {n: m.clone() if self.step == 0 else self.explored[n] | m for n, m in used.items()}
        self._forward_flops_per_row = forward_flops(self.macs, used)
        extra = self.recipe.objective.extra_forwards * self._forward_flops_per_row
        self._loss_flops_per_row = self._forward_flops_per_row + extra  # TRADES' extra backward pass with it
        self._flops_per_row = training_flops(self.macs, used=used, trained=self.sparse.masks) + extra
        self._flops_per_growing_row = training_flops(self.macs, used=used, trained={}) + extra

    def take_gradients(self, corrected: Tensors) -> None:
        """What the rule made of the gradient takes its place, in its memory layout, with the method's decay, masked."""
        if corrected:
            own = self.prober.gradients()
            torch._foreach_copy_([own[name] for name in corrected], list(corrected.values()))
        self.applied.decay_gradients()
        self.applied.mask_gradients()

    def take_sample(self) -> None:
        """Adds the weights, as the step just done computed with them, to the mean, where the recipe has one now."""
        average, num_steps = self.recipe.average, self.num_steps
        if not average.is_due(self.step, num_steps=num_steps, steps_per_epoch=self.steps_per_epoch):
            return
        own = {name: parameter.detach() for name, parameter in self.prober.parameters.items()}
        self.mean = self.mean.with_sample(own | self.applied.sample(self.step - 1))
        if self.step == num_steps and self.prober.buffers:  # running statistics of earlier evaluations are not training
            self.count_flops(self._rows_of_an_epoch * self._forward_flops_per_row)

    def set_rate(self) -> None:
        """The learning rate of this step."""
        rate = self.recipe.optimizer.lr * self.recipe.schedule.factor(self.step, self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    @contextmanager
    def finished(self) -> Iterator[None]:
        """In the block the network has the weights that it would be finished with now, and is in evaluation mode."""
        standing = self.prober.swap_weights(self.averaged()) if self.mean.num else self.applied.finished()
        with standing, self.at_rest():
            yield

    def averaged(self) -> Tensors:
        """The mean of the samples, with running statistics of its own."""
        if self._refreshed[0] != self.mean.num:
            self._refreshed = self.mean.num, self._statistics_at(self.mean.tensors)
        return {**self.mean.tensors, **self._refreshed[1]}

    @torch.no_grad()
    def _statistics_at(self, parameters: Tensors) -> Tensors:
        """Buffers of the network at these parameters: batch norm's are means over an epoch's batches, augmented."""
        if not self.prober.buffers:
            return {}
        generator = stream(self.seed, "refresh", self.mean.num)
        order = torch.randperm(len(self.rows), generator=generator)[: self._rows_of_an_epoch]
        seed = stream_seed(self.seed, "refresh-forward", self.mean.num)
        tensors = {**self.prober.weights(), **parameters}
        with fork_rng(self.device, seed), self.prober.swap_weights(tensors):
            with cumulative_statistics(self.network), self.autocast():
                for rows in order.split(self.recipe.budget.batch_size):
                    self.forward(self.rows.batch(rows, self.recipe.augment, generator)[0])
            held = self.prober.weights()
            return {name: held[name] for name in self.prober.buffers}

    @torch.no_grad()
    def logits(self, split: DeviceSplit) -> Tensor:
        """Outputs `(N, K)` float32 on the CPU, of the network as it would be finished now."""
        with self.finished():
            return self.outputs(split)

    @torch.no_grad()
    def outputs(self, split: DeviceSplit) -> Tensor:
        """Outputs `(N, K)` float32 on the CPU, of the network as it stands."""
        with self.autocast():
            outputs = [self.forward(images).float() for images, _ in split.batches(EVALUATION_BATCH)]
        return torch.cat(outputs).cpu()
