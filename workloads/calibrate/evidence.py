"""Network outputs that OOD scores need: logits, features, last layer, labels, and the network itself.

Arrays keep the network's precision, usually float32; results computed from them are float64. Dimensions: N rows,
K classes, C outputs (K classes and extra outputs), d features.
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
from pruneyard.workloads.networks.last_layer import last_layer, last_layer_name

LOGITS, FEATURES, LABELS, NETWORK = "logits", "features", "labels", "network"  # kinds of evidence
ROUNDING = 1e-3  # relative to the sum of |terms|: TF32 errors are smaller, a wrong layer deviates by more
ROWS_AT_ONCE = 4096  # bounds memory

Floats = NDArray[np.float64]
AsGiven = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class LastLayer:
    """The inputs of the last layer, `features: (N, d)`, and its `weight: (C, d)` and `bias: (C,)`."""

    features: AsGiven
    weight: AsGiven
    bias: AsGiven


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """The network and its input rows, on one device, for scores that run the network again."""

    network: nn.Module
    rows: DeviceSplit
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Outputs `logits: (N, C)` of a network, whose last `num_extra` columns are not classes, and optional further evidence.

    labels: `(N,)` integers, negative for rows that belong to no class. Construction raises `ValueError` for inconsistent arrays,
    for numbers that are not finite and for a last layer that does not reproduce the logits, naming the first invalid row.
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
                f"num_extra is {self.num_extra}; it must leave at least 2 of {self.logits.shape[1]} outputs as classes"
            )
        # First, because NaN would pass the comparison of `_check_layer`.
        _refuse_not_finite(self.logits, LOGITS)
        if self.labels is not None and (
            self.labels.shape != (len(self),) or not np.issubdtype(self.labels.dtype, np.integer)
        ):
            raise ValueError(
                f"labels are {self.labels.dtype} {self.labels.shape}; they must be integers ({len(self)},)"
            )
        if self.rerun is not None and len(self.rerun.rows) != len(self):
            raise ValueError(
                f"the network has {len(self.rerun.rows)} input rows, but there are {len(self)} rows of logits"
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
        """The kinds of evidence that are available: LOGITS, FEATURES, LABELS, NETWORK."""
        optional = {FEATURES: self.last_layer, LABELS: self.labels, NETWORK: self.rerun}
        return frozenset({LOGITS} | {name for name, held in optional.items() if held is not None})

    @property
    def class_logits(self) -> Floats:
        """Class logits (N, K) as float64, without extra outputs."""
        return self.logits[:, : self.num_classes].astype(np.float64)

    @property
    def features(self) -> AsGiven:
        """Features (N, d) in their original precision. Raises `ValueError` if missing."""
        return self._layer.features

    @property
    def class_layer(self) -> tuple[Floats, Floats]:
        """Last-layer weight (K, d) and bias (K,) of the classes as float64. Raises `ValueError` if missing."""
        num = self.num_classes
        return self._layer.weight[:num].astype(np.float64), self._layer.bias[:num].astype(np.float64)

    @property
    def class_labels(self) -> NDArray[np.int64]:
        """Labels (N,). Raises `ValueError` if they are missing or not all classes."""
        if self.labels is None:
            raise ValueError("the evidence has no labels; this score needs them")
        wrong = (self.labels < 0) | (self.labels >= self.num_classes)
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(
                f"row {row} has label {self.labels[row]}; it must lie in [0, {self.num_classes})"
            )
        return self.labels.astype(np.int64)

    @property
    def run_again(self) -> Rerun:
        """The network with its inputs. Raises `ValueError` if missing."""
        if self.rerun is None:
            raise ValueError("the evidence has no network; this score needs it")
        return self.rerun

    @property
    def _layer(self) -> LastLayer:
        if self.last_layer is None:
            raise ValueError("the evidence has no features; this score needs them")
        return self.last_layer


def evidence_of(
    finished: FinishedNetwork, rows: Split | DeviceSplit, *, num_extra: int = 0, batch_size: int = 256
) -> Evidence:
    """Returns all evidence of a finished network for rows, a split on the CPU or on the network's device.

    Raises `ValueError` for images of another shape, and for a network that does not end with a linear layer.
    """
    blueprint, network = finished.blueprint, finished.network
    if isinstance(rows, Split):
        rows = DeviceSplit(rows, mean=blueprint.mean, std=blueprint.std)
    if (rows.image_shape, rows.pixels is not None) != (blueprint.image_shape, blueprint.pixels):
        raise ValueError(
            f"inputs have the shape {rows.image_shape}; the network expects {blueprint.image_shape}"
        )
    if network.training:
        raise ValueError("the network is in training mode; it must be in evaluation mode")
    layer = last_layer(network)
    if not isinstance(layer, nn.Linear):
        raise ValueError(f"layer {last_layer_name(network)} is {type(layer).__name__}; it must be nn.Linear")
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
    """Yields slices of at most `size` rows, in order."""
    for start in range(0, num_rows, size):
        yield slice(start, min(start + size, num_rows))


@torch.no_grad()
def _outputs(network: nn.Module, rows: DeviceSplit, batch_size: int) -> tuple[AsGiven, AsGiven]:
    """Returns logits (N, C) and features (N, d) of all rows, float32."""
    features: list[torch.Tensor] = []
    logits: list[torch.Tensor] = []
    layer = last_layer(network)
    # Features are the inputs of the last layer in the same pass, so they belong to these logits exactly.
    handle = layer.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].float().cpu()))
    try:
        for images, _ in rows.batches(batch_size):
            logits.append(network(images).float().cpu())
    finally:
        handle.remove()
    if not logits:
        raise ValueError("there are no rows; there must be at least one")
    return torch.cat(logits).numpy(), torch.cat(features).numpy()


def _check_layer(layer: LastLayer, logits: AsGiven) -> None:
    """Raises `ValueError` unless W h + b equals the logits up to rounding."""
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
        raise ValueError("the last layer has numbers that are not finite; its training has failed, so leave this run out")
    for rows in blocks(num_rows):
        features = layer.features[rows].astype(np.float64)
        # The rounding error of a sum grows with its absolute terms, not with its value, which may be near 0.
        error = np.abs(features @ weight.T + bias - logits[rows])
        wrong = (error > ROUNDING * (np.abs(features) @ np.abs(weight).T + np.abs(bias))).any(axis=1)
        if wrong.any():
            row = rows.start + int(wrong.argmax())
            raise ValueError(
                f"row {row} has logits that differ by {error[row - rows.start].max():.3g} from W h + b of its features; "
                "features must be the inputs of the network's last layer"
            )


def _refuse_not_finite(array: AsGiven, what: str) -> None:
    wrong = ~np.isfinite(array).all(axis=1)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"row {row} of the {what} is {array[row]}; it must be finite")
