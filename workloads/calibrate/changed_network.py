"""Networks whose features or last layer are changed before the energy is computed: ASH, SCALE, ReAct and DICE.

The change moves the logits, so it may cost accuracy on in-distribution inputs. Dimensions: N rows, K classes, d features.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from pruneyard.workloads.calibrate.evidence import Evidence, Floats, blocks


@dataclass(frozen=True, kw_only=True)
class ChangedNetwork:
    """Class logits W change(h) + b, whose energy logsumexp is an OOD score.

    change: maps features (B, d) of some rows to (B, d). layer: weight (K, d) and bias (K,); None for those of the network.
    needs_positive: True if features must not be negative.
    """

    change: Callable[[Floats], Floats]
    layer: tuple[Floats, Floats] | None = None
    needs_positive: bool = False

    def __call__(self, evidence: Evidence) -> Floats:
        """Returns the energy (N,). Raises `ValueError` for negative features where these are not allowed."""
        return np.concatenate([logsumexp(logits, axis=1) for logits in self._logits(evidence)])

    def accuracy(self, evidence: Evidence) -> float:
        """Returns the share of rows that the changed network classifies correctly."""
        predicted = np.concatenate([logits.argmax(axis=1) for logits in self._logits(evidence)])
        return float((predicted == evidence.class_labels).mean())

    def _logits(self, evidence: Evidence) -> Iterator[Floats]:
        """Yields the class logits of some rows after the other."""
        features = evidence.features
        if self.needs_positive and (negative := (features < 0).any(axis=1)).any():
            row = int(negative.argmax())
            raise ValueError(f"row {row} has feature {features[row].min()}; activations must not be negative")
        weight, bias = self.layer or evidence.class_layer
        for rows in blocks(len(features)):
            with np.errstate(over="ignore", invalid="ignore"):  # `FittedScore.score` rejects scores that are not finite
                yield self.change(features[rows].astype(np.float64)) @ weight.T + bias
