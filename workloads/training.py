"""What a training holds while it runs: network, masks, optimizer and counters, and how they are saved and restored."""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn

from workloads.checkpoint import Checkpoint
from workloads.data.batches import DeviceSplit
from workloads.networks.builder import ModelBuilder
from workloads.probe import EpochStart, Prober, StepBatch
from workloads.recipe import Recipe
from workloads.seeding import global_stream, seed_globally, stream, stream_seed
from workloads.slots import GradientRule, Network, RuleState, Tensors
from workloads.sparse.flops import macs_of, training_flops
from workloads.sparse.masks import prunable_weights
from workloads.sparse.updater import MaskUpdater, Moment, SparseState
from workloads.workload import Metric, NonFiniteError

EVALUATION_BATCH = 1000  # rows per forward pass; results do not depend on it beyond rounding


@dataclass(kw_only=True)
class Training:
    """The mutable middle of a job; `workloads.loop` decides what happens to it and when."""

    recipe: Recipe
    method: MaskUpdater
    seed: int
    num_steps: int
    network: nn.Module
    forward: Network
    weights: Mapping[str, nn.Parameter]
    macs: Mapping[str, int]
    optimizer: torch.optim.Optimizer
    sparse: SparseState
    prober: Prober
    rule: RuleState  # what the recipe's gradient rule remembers
    explored: dict[str, Tensor]  # by mask, True = was active in some step
    losses: Tensor  # of the steps since the last evaluation, on the device
    num_losses: int = 0
    last_loss_at: int = -1  # step
    step: int = 0
    train_flops: float = 0.0
    train_s: float = 0.0
    history: list[Metric] = field(default_factory=list)
    _factors: list[Tensor] = field(default_factory=list)
    _flops_per_row: float = 0.0
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
        image_shape: tuple[int, int, int],
        num_classes: int,
        num_rows: int,
        device: torch.device,
    ) -> "Training":
        """A network at its initialisation, with the method's first masks applied."""
        with global_stream(seed, "init"):
            network = model.build(image_shape=image_shape, num_classes=num_classes)
        weights = prunable_weights(network)
        sparse = method.start({n: w.detach() for n, w in weights.items()}, generator=stream(seed, "masks"))
        layout = torch.channels_last if recipe.budget.channels_last else torch.preserve_format
        network = network.to(device).to(memory_format=layout)
        seed_globally(stream_seed(seed, "forward"), device=device)  # for networks that draw in their forward pass
        prober = Prober.of(network)
        training = cls(
            recipe=recipe,
            method=method,
            seed=seed,
            num_steps=recipe.budget.num_steps(num_rows),
            network=network,
            forward=torch.compile(network) if recipe.budget.compile else network,
            weights=prunable_weights(network),
            macs=macs_of(model, image_shape, num_classes),
            optimizer=recipe.optimizer.build(network.named_parameters()),
            sparse=sparse,
            prober=prober,
            rule=RuleState(),
            explored={},
            losses=torch.zeros(recipe.budget.evaluation_interval(num_rows), device=device),
        )
        training.apply_masks(sparse)
        training.rule = recipe.gradient.start(prober.weights())
        return training

    @property
    def device(self) -> torch.device:
        return self.losses.device

    def autocast(self) -> AbstractContextManager[object]:
        """The precision of the budget, for training and evaluation alike."""
        if self.recipe.budget.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def loss_of(self, images: Tensor, labels: Tensor) -> Tensor:
        """The objective of the batch, ready to be differentiated."""
        with self.autocast():
            return self.recipe.objective.loss(self.forward, images, labels)

    def differentiate(self, images: Tensor, labels: Tensor, *, rule: GradientRule) -> tuple[Tensor, Tensors]:
        """Fills `.grad` with the dense gradient of the batch; returns its loss and what the rule makes of the gradient."""
        batch = StepBatch(
            prober=self.prober,
            loss_of=self.loss_of,
            images=images,
            labels=labels,
            count=self.count_flops,
            flops_per_row=self._flops_per_row,
            forward_flops_per_row=self._flops_per_row / 3,  # backward is twice forward
            optimizer=self.optimizer,
        )
        gradient, self.rule = rule.gradient(self.rule, batch)
        return gradient.loss, gradient.corrected

    def look(self, batch_of: Callable[[int], tuple[Tensor, Tensor]], *, num_batches: int) -> None:
        """Lets the gradient rule look at the epoch that begins; `batch_of` gives images and labels of a step."""
        epoch = EpochStart(
            prober=self.prober,
            loss_of=self.loss_of,
            batch_of=batch_of,
            steps=range(self.step, self.step + num_batches),
            masks=self.sparse.masks,
            count=self.count_flops,
            flops_per_row=self._flops_per_growing_row,
            forward_flops_per_row=self._flops_per_row / 3,
            seed=self.seed,
        )
        self.rule = self.recipe.gradient.look(self.rule, epoch)

    def count_flops(self, flops: float) -> None:
        """Work beyond a step's own forward and backward pass."""
        self.train_flops += flops

    def record_loss(self, loss: Tensor, *, num_rows: int, grows: bool) -> None:
        """Keeps the loss on the device and counts what the step cost."""
        self.losses[self.num_losses] = loss
        self.num_losses += 1
        self.last_loss_at = self.step
        self.train_flops += num_rows * (self._flops_per_growing_row if grows else self._flops_per_row)

    def check_losses(self) -> Tensor:
        """Losses since they were last taken; waits for the device. Raises `NonFiniteError` with the first bad step."""
        losses = self.losses[: self.num_losses].cpu()
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            first = int(bad[0])
            step = self.last_loss_at - self.num_losses + 1 + first
            raise NonFiniteError(f"train/loss is {float(losses[first])} at step {step}")
        return losses

    def take_losses(self) -> float:
        """Their mean; the next ones are counted anew."""
        mean = float(self.check_losses().double().mean())
        self.num_losses = 0
        return mean

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

    def follow_gradients(self) -> None:
        """Shows every step's gradients to a method that remembers them."""
        if self.method.follows_gradient:
            self.sparse = self.method.follow(self.sparse, self.gradients())

    def updated_masks(self) -> SparseState:
        """The method's update by the batch's own gradient, drawn from the stream of this step; not yet applied."""
        self.check_losses()
        moment = Moment(
            step=self.step,
            num_steps=self.num_steps,
            weights={name: weight.detach() for name, weight in self.weights.items()},
            gradients=self.gradients(),
            generator=stream(self.seed, "mask-update", self.step),
        )
        return self.method.update(self.sparse, moment)

    def apply_masks(self, sparse: SparseState) -> None:
        """Zeroes weights, gradients and optimizer state outside the masks; from then on masked gradients keep them zero."""
        self.sparse = SparseState(
            masks={name: mask.to(self.device) for name, mask in sparse.masks.items()},
            tensors={name: tensor.to(self.device) for name, tensor in sparse.tensors.items()},
        )
        self._factors = []
        masks = self.sparse.masks  # those before step 0's update, if there is one, are never trained under
        self.explored = {n: m.clone() if self.step == 0 else self.explored[n] | m for n, m in masks.items()}
        for name, mask in masks.items():
            weight = self.weights[name]
            factor = torch.empty_like(weight, requires_grad=False).copy_(mask)
            self._factors.append(factor)
            with torch.no_grad():
                weight.mul_(factor)
            for buffer in self.optimizer.state.get(weight, {}).values():
                if isinstance(buffer, Tensor) and buffer.shape == weight.shape:
                    buffer.mul_(factor)
        self.mask_gradients()
        self._flops_per_row = training_flops(self.macs, self.sparse.masks, dense_gradient=False)
        self._flops_per_growing_row = training_flops(self.macs, self.sparse.masks, dense_gradient=True)

    def take_gradients(self, corrected: Tensors) -> None:
        """What the rule made of the gradient takes its place, in its memory layout, and is masked."""
        if corrected:
            own = self.prober.parameters
            gradients = [_gradient_of(own[name]) for name in corrected]
            torch._foreach_copy_(gradients, list(corrected.values()))
        self.mask_gradients()

    def mask_gradients(self) -> None:
        """One multiplication per masked layer: with it, weight, gradient and momentum stay exactly zero outside."""
        pairs = zip(self.sparse.masks, self._factors, strict=True)
        masked = [(grad, factor) for name, factor in pairs if (grad := self.weights[name].grad) is not None]
        if masked:
            gradients, factors = zip(*masked, strict=True)
            torch._foreach_mul_(gradients, factors)

    def set_rate(self) -> None:
        """The learning rate of this step."""
        rate = self.recipe.optimizer.lr * self.recipe.schedule.factor(self.step, self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    @torch.no_grad()
    def logits(self, split: DeviceSplit) -> Tensor:
        """Outputs `(N, C)` float32 on the CPU, of the network in evaluation mode."""
        self.network.eval()
        with self.autocast():
            outputs = [self.forward(images).float() for images, _ in split.batches(EVALUATION_BATCH)]
        self.network.train()
        return torch.cat(outputs).cpu()

    def num_active(self) -> int:
        """Parameters that are not masked, biases and norms included."""
        masked = sum(int((~mask).sum()) for mask in self.sparse.masks.values())
        return self.num_parameters() - masked

    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.network.parameters())

    def density(self) -> float:
        """Active share of all prunable weights."""
        total = sum(weight.numel() for weight in self.weights.values())
        return 1 - (self.num_parameters() - self.num_active()) / total

    def explored_share(self) -> float:
        """Share of all prunable weights that were active in some step so far.

        Reference: Liu et al. 2021, Do We Actually Need Dense Over-Parameterization? (arXiv:2102.02887).
        """
        total = sum(weight.numel() for weight in self.weights.values())
        return 1 - sum(int((~seen).sum()) for seen in self.explored.values()) / total

    def densities(self) -> dict[str, float]:
        """Active share of every prunable layer, 1 where the method keeps no mask."""
        masks = self.sparse.masks
        return {n: float(masks[n].double().mean()) if n in masks else 1.0 for n in self.weights}

    def checkpoint(self, *, data: str) -> Checkpoint:
        """All that a bit-equal continuation needs; `data` is the fingerprint of the data set."""
        groups: dict[str, Tensors] = {
            "network": self.network.state_dict(),
            "rule": self.rule.tensors,
            "mask": self.sparse.masks,
            "explored": self.explored,
            "updater": self.sparse.tensors,
        }
        random_state = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random_state["cuda"] = torch.cuda.get_rng_state(self.device)
        return Checkpoint(
            step=self.step,
            tensors={f"{group}/{name}": t for group, tensors in groups.items() for name, t in tensors.items()},
            state={
                "optimizer": self.optimizer.state_dict(),
                "random": random_state,
                "losses": self.losses[: self.num_losses].clone(),
            },
            meta={
                "data": data,
                "num_steps": self.num_steps,
                "train_flops": self.train_flops,
                "train_s": self.train_s,
                "metrics": [asdict(metric) for metric in self.history],
                "rule": dict(self.rule.numbers),
            },
        )

    def restore(self, checkpoint: Checkpoint, *, data: str) -> None:
        """Stands where `checkpoint` was taken. Raises `ValueError` when it belongs to another budget or other data."""
        if checkpoint.meta["data"] != data:
            found = checkpoint.meta["data"]
            raise ValueError(f"the checkpoint was made on data {found}, this run has {data}; give another --out")
        if checkpoint.meta["num_steps"] != self.num_steps:
            found = checkpoint.meta["num_steps"]
            raise ValueError(f"the checkpoint is of a run of {found} steps, this run has {self.num_steps}")
        kinds = ("network", "mask", "explored", "updater", "rule")
        groups: dict[str, dict[str, Tensor]] = {kind: {} for kind in kinds}
        for key, tensor in checkpoint.tensors.items():
            group, _, name = key.partition("/")
            groups[group][name] = tensor
        self.network.load_state_dict(groups["network"])
        self.optimizer.load_state_dict(checkpoint.state["optimizer"])
        self.apply_masks(SparseState(masks=groups["mask"], tensors=groups["updater"]))
        self.explored = {name: groups["explored"][name].to(self.device) for name in groups["mask"]}
        self.rule = RuleState({n: self._laid_out(t) for n, t in groups["rule"].items()}, checkpoint.meta["rule"])
        torch.set_rng_state(checkpoint.state["random"]["cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(checkpoint.state["random"]["cuda"], self.device)
        losses = checkpoint.state["losses"]  # perhaps more than now come between two evaluations
        self.num_losses = len(losses)
        self.losses = torch.cat([losses.to(self.device), torch.zeros_like(self.losses)])
        self.step, self.last_loss_at = checkpoint.step, checkpoint.step - 1
        self.train_flops = checkpoint.meta["train_flops"]
        self.train_s = checkpoint.meta["train_s"]
        self.history = [Metric(**row) for row in checkpoint.meta["metrics"]]

    def _laid_out(self, tensor: Tensor) -> Tensor:
        """In the memory layout of the network's tensors: other layouts round differently."""
        last = self.recipe.budget.channels_last and tensor.ndim == 4
        return tensor.contiguous(memory_format=torch.channels_last) if last else tensor


def _gradient_of(parameter: nn.Parameter) -> Tensor:
    """The tensor in `.grad`."""
    assert parameter.grad is not None
    return parameter.grad
