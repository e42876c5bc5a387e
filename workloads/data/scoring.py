"""The scoring run: trains small networks on the training rows and notes, after every epoch, what each row is to them.

One run serves every rule that chooses rows by what networks make of them: equal tables and seeds give equal networks, whatever
is asked of them. It goes on from any epoch, and never sees rows beyond those of training. What it found out can be read from the
file that an earlier job left, by jobs on the same data with the same model.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from pruneyard.workloads.data.batches import Augmentation, DeviceSplit
from pruneyard.workloads.data.kept_file import kept_file, known_digest
from pruneyard.workloads.data.kept_scores import FILE, MOMENTA, KeptScores
from pruneyard.workloads.data.selection import CLASSIFIER_GRADIENTS, FEATURES, GRADIENTS, Pool
from pruneyard.workloads.fields import FILLED_IN, NEUTRAL_BY_DEFAULT, NOT_IDENTITY
from pruneyard.workloads.networks.features import features

ROWS = 1000  # per forward pass
ROWS_AT_ONCE = 32  # whose gradients are held together, each as large as the network
WEIGHT, VELOCITY = "network/", MOMENTA


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How the networks that score rows are trained: by SGD at a constant rate; the rows left over by the batches of an epoch
    sit it out.

    networks: scores are averaged over so many, each initialised and trained with draws of its own.
    path: instead of training, the scores.safetensors that an earlier job left; identity is what is in it, not where it lies.
    digest: 16 hexadecimal digits over the file's content; where it is given, another content is refused.
    runs, folder, artifacts: instead of a path, as in `pruneyard.workloads.parents.Runs`, of one run; a spec writes `from: STAGE`.
    """

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
        if self.are_kept:
            self._check_reference()
        elif self.digest:
            raise ValueError(f"digest is {self.digest} without a path; it belongs to one")

    @property
    def are_kept(self) -> bool:
        """Whether the scores are read and nothing is trained."""
        return bool(self.path or self.runs)

    @property
    def num_epochs(self) -> int:
        """Of all networks together; 0 where the scores are read."""
        return 0 if self.are_kept else self.networks * self.epochs

    def kept(self) -> KeptScores:
        """Those that are read. Raises `ValueError` where the file is not what it was, or is none."""
        path = kept_file(path=self.path, digest=self.digest, runs=self.runs, artifacts=self.artifacts, name=FILE)
        return KeptScores.from_file(str(path))

    def _check_reference(self) -> None:
        """One place to read from, and nothing said of a training that there will not be."""
        for name in ("networks", "epochs", "batch_size", "lr", "momentum", "weight_decay", "augment"):
            if getattr(self, name) != _DEFAULTS[name]:
                raise ValueError(f"{name} is {getattr(self, name)} beside scores that are read; leave it out")
        if self.path and self.runs:
            raise ValueError(f"path is {self.path!r} beside runs; one of the two must be left out")
        known = known_digest(path=self.path, digest=self.digest, runs=self.runs, another="holds other scores")
        object.__setattr__(self, "digest", known)


_DEFAULTS = {f.name: f.default for f in fields(Scoring) if f.default is not MISSING}


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """The run, epoch by epoch. Its state is tensors by name; none that is handed in is written to.

    network: a fresh one of this number on the device of the rows; draws: a generator for the epoch of this number.
    data: fingerprint of the data set that the rows are the training rows of.
    """

    table: Scoring
    rows: DeviceSplit
    asks: frozenset[str]
    network: Callable[[int], nn.Module]
    draws: Callable[[int], torch.Generator]
    data: str = ""

    def start(self) -> dict[str, Tensor]:
        """Before the first epoch; where the scores are read, after the last.

        Raises `ValueError` for scores of other data, or without what is asked for.
        """
        if self.table.are_kept:
            return self._read()
        shape = (self.table.networks, self.table.epochs, len(self.rows))
        device = self.rows.device
        norms = torch.zeros((shape[0], shape[2] if self._layers else 0), device=device)
        return {
            "errors": torch.zeros(shape, device=device),
            "margins": torch.zeros(shape, device=device),
            "gradient_norms": norms,
        }

    def epoch(self, state: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
        """The state after the epoch of this number, counted from 0 over all networks."""
        index, epoch = divmod(number, self.table.epochs)
        network = self.network(index)
        optimizer = torch.optim.SGD(
            network.parameters(), lr=self.table.lr, momentum=self.table.momentum, weight_decay=self.table.weight_decay
        )
        if epoch:
            restore(network, optimizer, state)
        self._train(network, optimizer, self.draws(number))
        after = {name: state[name].clone() for name in ("errors", "margins", "gradient_norms")}
        after["errors"][index, epoch], after["margins"][index, epoch] = self._outputs(network.eval())
        if self._layers and epoch == self.table.epochs - 1:
            after["gradient_norms"][index] = torch.cat(
                [gradient_norms(network, images, labels, layers=self._layers) for images, labels in self.rows.batches(ROWS)]
            )
        return after | saved(network, optimizer)

    def pool(self, state: Mapping[str, Tensor]) -> Pool:
        """What is known after the last epoch; features are those of the last network."""
        held = {name: state[name] for name in ("errors", "margins", "gradient_norms")}
        if FEATURES in self.asks:
            network = self.network(len(state["errors"]) - 1)
            try:
                network.load_state_dict(named(state, WEIGHT))
            except RuntimeError as error:
                raise ValueError(f"the network that scored is not of this model: {error}") from error
            held["features"] = self._features(network.eval())
        return Pool(labels=self.rows.labels, **held)

    def to_bytes(self, state: Mapping[str, Tensor]) -> bytes:
        """The file that other jobs may read, of the state after the last epoch."""
        return KeptScores(tensors=state, data=self.data, layers=self._layers).to_bytes()

    def _read(self) -> dict[str, Tensor]:
        kept = self.table.kept()
        if not self.data or kept.data != self.data:
            raise ValueError(f"the scores are of data {kept.data}; these are {self.data or 'unknown'}")
        if self._layers not in ("", kept.layers):
            found = f"those of {kept.layers} layers" if kept.layers else "none"
            raise ValueError(f"the scores hold no gradients by layers: {self._layers}, but {found}; read those of another job")
        return {name: tensor.to(self.rows.device) for name, tensor in kept.tensors.items()}

    @property
    def _layers(self) -> str:
        """Of which the gradients are asked for: all, classifier, or none of them."""
        return "all" if GRADIENTS in self.asks else "classifier" if CLASSIFIER_GRADIENTS in self.asks else ""

    def _train(self, network: nn.Module, optimizer: torch.optim.Optimizer, draws: torch.Generator) -> None:
        size = min(self.table.batch_size, len(self.rows))
        order = torch.randperm(len(self.rows), generator=draws)[: len(self.rows) // size * size]
        for rows in order.split(size):
            images, labels = self.rows.batch(rows, self.table.augment, draws)
            optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(network(images), labels).backward()
            optimizer.step()

    @torch.no_grad()
    def _outputs(self, network: nn.Module) -> tuple[Tensor, Tensor]:
        """Error lengths and margins of all rows, (N,) each."""
        found = [errors_and_margins(network(images), labels) for images, labels in self.rows.batches(ROWS)]
        errors, margins = zip(*found, strict=True)
        return torch.cat(errors), torch.cat(margins)

    @torch.no_grad()
    def _features(self, network: nn.Module) -> Tensor:
        return torch.cat([features(network, images) for images, _ in self.rows.batches(ROWS)])


def errors_and_margins(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of logits (B, K): the length of (probabilities - one-hot label), and the label's probability less the largest other."""
    probabilities = logits.float().softmax(1)
    wanted = functional.one_hot(labels, probabilities.shape[1]).bool()
    margins = probabilities[wanted] - probabilities.masked_fill(wanted, -1.0).amax(1)
    return (probabilities - wanted.float()).norm(dim=1), margins


def gradient_norms(network: nn.Module, images: Tensor, labels: Tensor, *, layers: str) -> Tensor:
    """(B,) length of the gradient of each row's cross entropy by all parameters, or by those of the classifier alone.

    The latter is (probabilities - label) times (features, 1), so its length is the product of theirs.
    """
    if layers == "classifier":
        with torch.no_grad():
            seen = features(network, images)
            errors, _ = errors_and_margins(network.get_submodule("classifier")(seen), labels)
            return errors * (seen.square().sum(1) + 1).sqrt()
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
    buffers = dict(network.named_buffers())

    def loss(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        outputs = functional_call(network, (weights, buffers), (image[None],))
        return functional.cross_entropy(outputs, label[None])

    gradients = vmap(grad(loss), in_dims=(None, 0, 0), chunk_size=ROWS_AT_ONCE)(parameters, images, labels)
    return torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients.values()]).sum(0).sqrt()


def saved(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """A network's weights and buffers, and the momentum of its parameters."""
    weights = {WEIGHT + name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    momenta = {
        VELOCITY + name: optimizer.state[parameter]["momentum_buffer"].clone()
        for name, parameter in network.named_parameters()
        if optimizer.state[parameter].get("momentum_buffer") is not None
    }
    return weights | momenta


def restore(network: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Puts both where they were when `saved`."""
    network.load_state_dict(named(state, WEIGHT))
    momenta = named(state, VELOCITY)
    for name, parameter in network.named_parameters():
        if name in momenta:
            optimizer.state[parameter]["momentum_buffer"] = momenta[name].clone()


def named(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start so, by the rest of them."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
