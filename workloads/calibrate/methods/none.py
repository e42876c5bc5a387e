"""No calibration: the softmax of the network's logits.

Reference: the softmax; nothing is fitted
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import log_softmax

from pruneyard.workloads.calibrate.calibrator import Fitted, Floats, Labels, PostHoc, keeping_argmax

__all__ = ["Uncalibrated"]


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedNone(Fitted):
    """The softmax; it has only the number of classes."""

    def _map(self, logits_MC: Floats) -> Floats:
        return keeping_argmax(log_softmax(logits_MC, axis=1), logits_MC)


@dataclass(frozen=True, kw_only=True)
class Uncalibrated(PostHoc):
    """The neutral calibrator."""

    becomes: ClassVar[type[Fitted]] = FittedNone
    changes_probabilities: ClassVar[bool] = False

    def never_raises_nll(self, num_classes: int) -> bool:
        """Returns True: the probabilities are the network's own."""
        return True

    @property
    def keeps_argmax(self) -> bool:
        """True: the softmax preserves the order of logits."""
        return True

    def _fit(self, logits_NC: Floats, labels_N: Labels, *, seed: int) -> FittedNone:
        return FittedNone(num_classes=np.array(logits_NC.shape[1]))
