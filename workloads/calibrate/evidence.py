"""What a finished network says of rows, as scores of unknown inputs need it: logits, features, last layer, itself.

Arrays are kept as the network gives them, float32 as a rule; what is computed from them is float64. Dimensions: N rows,
K classes, C outputs (K and those beyond the classes), d features.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.data.dataset import Split
from pruneyard.workloads.networks.finished import FinishedNetwork

LOGITS, FEATURES, LABELS, NETWORK = "logits", "features", "labels", "network"  # what evidence may hold
CLASSIFIER = "classifier"  # every model calls its last layer so
ROUNDING = 1e-3  # of the sum of |terms|: TF32 loses less, a layer that is not the last one is off by more
ROWS_AT_ONCE = 4096  # bounds the memory of what is computed from all rows

Floats = NDArray[np.float64]
AsGiven = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class LastLayer:
    """What the last layer saw, `features: (N, d)`, and what it is: `weight: (C, d)` and `bias: (C,)`."""

    features: AsGiven
    weight: AsGiven
    bias: AsGiven


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """The network and the rows it was shown, for scores that run it once more. Both lie on one device."""

    network: nn.Module
    rows: DeviceSplit
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Outputs `logits: (N, C)` of a network, the last `num_extra` of which are no classes, and what else is known.

    labels: `(N,)` integers, below 0 where a row belongs to no class. Construction raises `ValueError` for arrays that do not fit,
    for numbers that are not finite and for a last layer that does not give the logits, naming the first such row.
    """

    logits: AsGiven
    num_extra: int = 0
    labels: NDArray[np.int64] | None = None
    last_layer: LastLayer | None = None
    rerun: Rerun | None = None

    def __post_init__(self) -> None:
        if self.logits.ndim != 2 or len(self.logits) == 0:
            raise ValueError(f"logits have shape {self.logits.shape}; it must be (N, C) with N >= 1")
        if self.num_extra < 0 or self.num_classes < 2:
            raise ValueError(
                f"num_extra is {self.num_extra}; it must leave at least 2 of {self.logits.shape[1]} outputs to classes"
            )
        _refuse_not_finite(self.logits, LOGITS)
        if self.labels is not None and (
            self.labels.shape != (len(self),) or not np.issubdtype(self.labels.dtype, np.integer)
        ):
            raise ValueError(
                f"labels are {self.labels.dtype} {self.labels.shape}; they must be integers ({len(self)},)"
            )
        if self.rerun is not None and len(self.rerun.rows) != len(self):
            raise ValueError(
                f"the network is given {len(self.rerun.rows)} rows; there are {len(self)} logits"
            )
        if self.last_layer is not None:
            _check_layer(self.last_layer, self.logits)

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def num_classes(self) -> int:
        return int(self.logits.shape[1]) - self.num_extra

    @property
    def holds(self) -> frozenset[str]:
        """Which of LOGITS, FEATURES, LABELS and NETWORK are here."""
        optional = {FEATURES: self.last_layer, LABELS: self.labels, NETWORK: self.rerun}
        return frozenset({LOGITS} | {name for name, held in optional.items() if held is not None})

    @property
    def class_logits(self) -> Floats:
        """(N, K) float64, without outputs that are no classes."""
        return self.logits[:, : self.num_classes].astype(np.float64)

    @property
    def features(self) -> AsGiven:
        """(N, d) as given. Raises `ValueError` where there are none."""
        return self._layer.features

    @property
    def class_layer(self) -> tuple[Floats, Floats]:
        """Weight (K, d) and bias (K,) of the classes alone, float64. Raises `ValueError` where they are not known."""
        num = self.num_classes
        return self._layer.weight[:num].astype(np.float64), self._layer.bias[:num].astype(np.float64)

    @property
    def class_labels(self) -> NDArray[np.int64]:
        """(N,) labels. Raises `ValueError` where there are none, or one is no class."""
        if self.labels is None:
            raise ValueError("labels are missing; they must be given")
        wrong = (self.labels < 0) | (self.labels >= self.num_classes)
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(
                f"row {row} has label {self.labels[row]}; it must lie in [0, {self.num_classes})"
            )
        return self.labels.astype(np.int64)

    @property
    def run_again(self) -> Rerun:
        """Raises `ValueError` where the network is not at hand."""
        if self.rerun is None:
            raise ValueError("the network is missing; it must be given")
        return self.rerun

    @property
    def _layer(self) -> LastLayer:
        if self.last_layer is None:
            raise ValueError("features are missing; they must be given")
        return self.last_layer


def evidence_of(
    finished: FinishedNetwork, rows: Split | DeviceSplit, *, num_extra: int = 0, batch_size: int = 256
) -> Evidence:
    """All that a finished network gives for rows: a split on the CPU, or one that lies where the network does.

    Raises `ValueError` for images of another shape, and for a network that does not end with the linear layer `classifier`.
    """
    blueprint, network = finished.blueprint, finished.network
    if isinstance(rows, Split):
        rows = DeviceSplit(rows, mean=blueprint.mean, std=blueprint.std)
    if rows.image_shape != blueprint.image_shape:
        raise ValueError(
            f"images are {rows.image_shape} (C, H, W); the network wants {blueprint.image_shape}"
        )
    if network.training:
        raise ValueError("the network is in training mode; it must be in evaluation mode")
    layer = network.get_submodule(CLASSIFIER)
    if not isinstance(layer, nn.Linear):
        raise ValueError(f"the layer called {CLASSIFIER} is {type(layer).__name__}; it must be linear")
    logits, features = _outputs(network, rows, batch_size)
    bias = torch.zeros(layer.out_features) if layer.bias is None else layer.bias.detach().cpu()
    return Evidence(
        logits=logits,
        num_extra=num_extra,
        labels=rows.labels.cpu().numpy(),
        last_layer=LastLayer(
            features=features, weight=layer.weight.detach().cpu().numpy(), bias=bias.numpy()
        ),
        rerun=Rerun(network=network, rows=rows, batch_size=batch_size),
    )


def blocks(num_rows: int, size: int = ROWS_AT_ONCE) -> Iterator[slice]:
    """Slices of at most `size` rows, in order."""
    for start in range(0, num_rows, size):
        yield slice(start, min(start + size, num_rows))


@torch.no_grad()
def _outputs(network: nn.Module, rows: DeviceSplit, batch_size: int) -> tuple[AsGiven, AsGiven]:
    """Logits (N, C) and features (N, d) of all rows, float32."""
    seen: list[torch.Tensor] = []
    logits: list[torch.Tensor] = []
    layer = network.get_submodule(CLASSIFIER)
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float().cpu()))
    try:
        for images, _ in rows.batches(batch_size):
            logits.append(network(images).float().cpu())
    finally:
        handle.remove()
    if not logits:
        raise ValueError("there are no rows; there must be at least one")
    return torch.cat(logits).numpy(), torch.cat(seen).numpy()


def _check_layer(layer: LastLayer, logits: AsGiven) -> None:
    """That W h + b are the logits, up to rounding."""
    num_rows, num_outputs = logits.shape
    shapes = layer.features.shape, layer.weight.shape, layer.bias.shape
    width = layer.features.shape[-1] if layer.features.ndim == 2 else 0
    if width < 1 or shapes != ((num_rows, width), (num_outputs, width), (num_outputs,)):
        raise ValueError(
            f"features, weight and bias have shapes {shapes}; they must be "
            f"({num_rows}, d), ({num_outputs}, d) and ({num_outputs},)"
        )
    _refuse_not_finite(layer.features, "features")
    weight, bias = layer.weight.astype(np.float64), layer.bias.astype(np.float64)
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise ValueError("the last layer has numbers that are not finite; all must be")
    for rows in blocks(num_rows):
        features = layer.features[rows].astype(np.float64)
        off = np.abs(features @ weight.T + bias - logits[rows])
        wrong = (off > ROUNDING * (np.abs(features) @ np.abs(weight).T + np.abs(bias))).any(axis=1)
        if wrong.any():
            row = rows.start + int(wrong.argmax())
            raise ValueError(
                f"row {row} has logits that differ by {off[row - rows.start].max():.3g} from W h + b of its features; "
                "features must be what the network's last layer sees"
            )


def _refuse_not_finite(array: AsGiven, what: str) -> None:
    wrong = ~np.isfinite(array).all(axis=1)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"row {row} of the {what} is {array[row]}; it must be finite")
