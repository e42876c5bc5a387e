"""The scoring run: trains small networks on the training rows and records statistics of each row after every epoch.

One run serves every rule that selects rows by the outputs of networks: equal tables and seeds give equal networks, whichever
statistics a rule needs. The run can resume from any epoch and uses training rows only. Jobs on the same data with the same
model can read the scores from the file that an earlier job wrote, instead of training.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from pruneyard.workloads.data.artifact_file import locate_artifact_file, resolve_digest
from pruneyard.workloads.data.batches import Augmentation, DeviceSplit
from pruneyard.workloads.data.score_file import FILE, MOMENTUM_PREFIX, SavedScores
from pruneyard.workloads.data.selection import CLASSIFIER_GRADIENTS, FEATURES, GRADIENTS, Pool
from pruneyard.workloads.fields import FILLED_IN, NEUTRAL_BY_DEFAULT, NOT_IDENTITY
from pruneyard.workloads.networks.features import features
from pruneyard.workloads.networks.last_layer import last_layer
from pruneyard.workloads.seeding import fork_rng, stream_seed

EVAL_BATCH_SIZE = 1000  # rows per forward pass
GRADIENT_BATCH_SIZE = 32  # rows whose gradients are in memory together; each gradient is as large as the network
WEIGHT_PREFIX = "network/"  # starts the names of weights and buffers in a state


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """The training of the networks that score rows: SGD at a constant learning rate; an incomplete last batch is dropped.

    networks: number of networks that scores are averaged over, each with its own random initialisation and batches.
    path: a scores.safetensors file of an earlier job, read instead of training. Its content is part of the run key, its path is
        not.
    digest: 16 hexadecimal digits over the file's content; if given, a file with other content is refused.
    runs, folder, artifacts: instead of a path, one run as in `pruneyard.workloads.parents.Runs`; a spec writes `from: STAGE`.
    """

    reads: ClassVar[str] = "scores"

    networks: int = 1
    epochs: int = 10  # of each network
    batch_size: int = 128
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augment: Augmentation = Augmentation()
    path: str = field(default="", repr=False, metadata=NOT_IDENTITY)
    digest: str = field(default="", metadata=NEUTRAL_BY_DEFAULT)
    runs: tuple[str, ...] = field(default=(), metadata=NEUTRAL_BY_DEFAULT)
    folder: str = field(default="", repr=False, metadata=NOT_IDENTITY)
    artifacts: tuple[str, ...] = field(default=(), repr=False, metadata=FILLED_IN)

    def __post_init__(self) -> None:
        for name in ("networks", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}; it must be above 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; it must lie in [0, 1)")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay is {self.weight_decay}; it must be 0 or more")
        if self.reads_saved_scores:
            self._check_reference()
        elif self.digest:
            raise ValueError(f"digest is {self.digest} without a path; it belongs to one")

    @property
    def reads_saved_scores(self) -> bool:
        """True if scores are read from a file, so that no network is trained."""
        return bool(self.path or self.runs)

    @property
    def num_epochs(self) -> int:
        """Epochs of all networks together; 0 if the scores are read from a file."""
        return 0 if self.reads_saved_scores else self.networks * self.epochs

    def load_scores(self) -> SavedScores:
        """Reads the file of scores. Raises `ValueError` if its content has changed, or it is no file of scores."""
        path = locate_artifact_file(path=self.path, digest=self.digest, runs=self.runs, artifacts=self.artifacts, name=FILE)
        return SavedScores.from_file(str(path))

    def _check_reference(self) -> None:
        """Checks that one file is named and that no field of the training is set, and sets `digest`."""
        for name in ("networks", "epochs", "batch_size", "lr", "momentum", "weight_decay", "augment"):
            if getattr(self, name) != _DEFAULTS[name]:
                raise ValueError(f"{name} is {getattr(self, name)}, but scores are read from a file; leave {name} out")
        if self.path and self.runs:
            raise ValueError(f"path is {self.path!r} and runs is {list(self.runs)}; one of the two must be left out")
        wanted = f"the path of a {FILE}, or from, a stage or folder of finished runs"
        digest = resolve_digest(
            path=self.path, digest=self.digest, runs=self.runs, mismatch="holds other scores", wanted=wanted
        )
        # The dataclass is frozen, but the digest is only known after the file has been read.
        object.__setattr__(self, "digest", digest)


_DEFAULTS = {f.name: f.default for f in fields(Scoring) if f.default is not MISSING}


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """A scoring run, epoch by epoch. Its state is a dictionary of named tensors; states passed in are not modified.

    asks: the statistics that the rule needs.
    network: returns a new network, by its index, on the device of the rows.
    epoch_generator: returns the random generator of an epoch, counted over all networks.
    data: the fingerprint of the data set that the training rows belong to.
    """

    table: Scoring
    rows: DeviceSplit
    asks: frozenset[str]
    network: Callable[[int], nn.Module]
    epoch_generator: Callable[[int], torch.Generator]
    data: str = ""

    def initial_state(self) -> dict[str, Tensor]:
        """Returns the state before the first epoch or, if scores are read from a file, after the last epoch.

        Raises `ValueError` if the scores are those of other data, or lack a statistic that is needed.
        """
        if self.table.reads_saved_scores:
            return self._read_state()
        shape = (self.table.networks, self.table.epochs, len(self.rows))
        device = self.rows.device
        norms = torch.zeros((shape[0], shape[2] if self._layers else 0), device=device)
        return {
            "errors": torch.zeros(shape, device=device),
            "margins": torch.zeros(shape, device=device),
            "gradient_norms": norms,
        }

    def run_epoch(self, state: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
        """Returns the state after epoch `number`, counted from 0 over all networks."""
        index, epoch = divmod(number, self.table.epochs)
        network = self.network(index)
        optimizer = torch.optim.SGD(
            network.parameters(), lr=self.table.lr, momentum=self.table.momentum, weight_decay=self.table.weight_decay
        )
        # The first epoch of a network starts from its initial weights; the state still holds those of the network before it.
        if epoch:
            restore_state(network, optimizer, state)
        generator = self.epoch_generator(number)
        with fork_rng(self.rows.device, stream_seed(generator.initial_seed(), "dropout")):
            self._train(network, optimizer, generator)
        # Cloned, because the caller keeps the state that it passed in.
        after = {name: state[name].clone() for name in ("errors", "margins", "gradient_norms")}
        after["errors"][index, epoch], after["margins"][index, epoch] = self._outputs(network.eval())
        if self._layers and epoch == self.table.epochs - 1:
            after["gradient_norms"][index] = torch.cat(
                [
                    compute_gradient_norms(network, images, labels, layers=self._layers)
                    for images, labels in self.rows.batches(EVAL_BATCH_SIZE)
                ]
            )
        return after | collect_state(network, optimizer)

    def build_pool(self, state: Mapping[str, Tensor]) -> Pool:
        """Returns the rows with their statistics after the last epoch; features are those of the last network."""
        statistics = {name: state[name] for name in ("errors", "margins", "gradient_norms")}
        if FEATURES in self.asks:
            # Not `table.networks`: a file of scores may come from another number of networks.
            network = self.network(len(state["errors"]) - 1)
            try:
                network.load_state_dict(select_by_prefix(state, WEIGHT_PREFIX))
            except RuntimeError as error:
                raise ValueError(f"the scores come from a network of another model: {error}") from error
            statistics["features"] = self._features(network.eval())
        return Pool(labels=self.rows.labels, **statistics)

    def to_bytes(self, state: Mapping[str, Tensor]) -> bytes:
        """Returns the content of the file of scores that other jobs can read, from the state after the last epoch."""
        return SavedScores(tensors=state, data=self.data, layers=self._layers).to_bytes()

    def _read_state(self) -> dict[str, Tensor]:
        saved = self.table.load_scores()
        if not self.data or saved.data != self.data:
            expected = f"data {self.data}" if self.data else "unknown data"
            raise ValueError(f"the scores are those of data {saved.data}; this job has {expected}: give scores of the same data")
        if self._layers not in ("", saved.layers):
            found = f"they contain those of layers: {saved.layers}" if saved.layers else "they contain none"
            needed = f"gradient norms of layers: {self._layers}"
            raise ValueError(f"the scores contain no {needed}; {found}; read the scores of another job")
        return {name: tensor.to(self.rows.device) for name, tensor in saved.tensors.items()}

    @property
    def _layers(self) -> str:
        """The layers whose gradient norms are needed: "all", "classifier", or "" for none."""
        return "all" if GRADIENTS in self.asks else "classifier" if CLASSIFIER_GRADIENTS in self.asks else ""

    def _train(self, network: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> None:
        size = min(self.table.batch_size, len(self.rows))
        order = torch.randperm(len(self.rows), generator=generator)[: len(self.rows) // size * size]
        for rows in order.split(size):
            images, labels = self.rows.batch(rows, self.table.augment, generator)
            optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(network(images), labels).backward()
            optimizer.step()

    @torch.no_grad()
    def _outputs(self, network: nn.Module) -> tuple[Tensor, Tensor]:
        """Returns error norms and margins of all rows, (N,) each."""
        batches = self.rows.batches(EVAL_BATCH_SIZE)
        results = [compute_errors_and_margins(network(images), labels) for images, labels in batches]
        errors, margins = zip(*results, strict=True)
        return torch.cat(errors), torch.cat(margins)

    @torch.no_grad()
    def _features(self, network: nn.Module) -> Tensor:
        return torch.cat([features(network, images) for images, _ in self.rows.batches(EVAL_BATCH_SIZE)])


def compute_errors_and_margins(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Returns error norms and margins (B,) of logits (B, K).

    The error norm is the L2 norm of (probabilities - one-hot label); the margin is the probability of the label minus the
    largest other probability.
    """
    probabilities = logits.float().softmax(1)
    is_label = functional.one_hot(labels, probabilities.shape[1]).bool()
    # -1 is below every probability, so the label never wins the maximum.
    margins = probabilities[is_label] - probabilities.masked_fill(is_label, -1.0).amax(1)
    return (probabilities - is_label.float()).norm(dim=1), margins


def compute_gradient_norms(network: nn.Module, images: Tensor, labels: Tensor, *, layers: str) -> Tensor:
    """Returns the norm (B,) of the gradient of each row's cross-entropy with respect to all parameters, or the classifier's.

    The classifier's gradient is the outer product of (probabilities - label) and (features, 1), so its norm is the product of
    their norms.
    """
    if layers == "classifier":
        with torch.no_grad():
            inputs = features(network, images)
            errors, _ = compute_errors_and_margins(last_layer(network)(inputs), labels)
            return errors * (inputs.square().sum(1) + 1).sqrt()
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
    # The caller has put the network in evaluation mode: batch statistics would mix the rows of `vmap`.
    buffers = dict(network.named_buffers())

    def loss(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        # `vmap` removes the batch axis, which the network needs.
        outputs = functional_call(network, (weights, buffers), (image[None],))
        return functional.cross_entropy(outputs, label[None])

    gradients = vmap(grad(loss), in_dims=(None, 0, 0), chunk_size=GRADIENT_BATCH_SIZE)(parameters, images, labels)
    return torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients.values()]).sum(0).sqrt()


def collect_state(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Returns the weights and buffers of a network and the momenta of its parameters, by prefixed name."""
    weights = {WEIGHT_PREFIX + name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    momenta = {
        MOMENTUM_PREFIX + name: optimizer.state[parameter]["momentum_buffer"].clone()
        for name, parameter in network.named_parameters()
        if optimizer.state[parameter].get("momentum_buffer") is not None
    }
    return weights | momenta


def restore_state(network: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Restores network and momenta from tensors that `collect_state` returned."""
    network.load_state_dict(select_by_prefix(state, WEIGHT_PREFIX))
    momenta = select_by_prefix(state, MOMENTUM_PREFIX)
    for name, parameter in network.named_parameters():
        if name in momenta:
            optimizer.state[parameter]["momentum_buffer"] = momenta[name].clone()


def select_by_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Returns the tensors whose names start with `prefix`, by name without the prefix."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
