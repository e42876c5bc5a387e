"""Temperature scaling: divides all logits by one temperature, fitted by negative log-likelihood.

Reference: Guo et al. 2017, On Calibration of Modern Neural Networks (arXiv:1706.04599)

The root search is exact and cannot diverge (`workloads/calibrate/temperature_fit.py`, which states the
bounds of T). If the NLL has no minimum, a warning is logged: `temperature_at_bound` is -1 if all labels have the largest
logit, and T stays 1; it is 1 if the logits carry no information about the labels, and T is its upper bound.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from pruneyard.workloads.calibrate.calibrator import Fitted, Floats, Labels, PostHoc, keeping_argmax
from pruneyard.workloads.calibrate.temperature_fit import TemperatureFit, fit_temperature

__all__ = ["Temperature"]


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedTemperature(Fitted):
    """The fitted temperature."""

    temperature: Floats  # ()
    at_bound: NDArray[np.int64]  # (): -1, 0 or 1

    @classmethod
    def of(cls, fit: TemperatureFit, num_classes: int) -> "FittedTemperature":
        """Creates the calibrator from the result of a fit."""
        return cls(
            num_classes=np.array(num_classes),
            temperature=np.array(fit.temperature),
            at_bound=np.array(fit.at_bound),
        )

    @property
    def numbers(self) -> Mapping[str, float]:
        """The temperature, and whether it is a bound."""
        return {"temperature": float(self.temperature), "temperature_at_bound": float(self.at_bound)}

    def _map(self, logits_MC: Floats) -> Floats:
        return keeping_argmax(log_softmax(logits_MC / self.temperature, axis=1), logits_MC)


@dataclass(frozen=True, kw_only=True)
class Temperature(PostHoc):
    """Temperature scaling."""

    becomes: ClassVar[type[Fitted]] = FittedTemperature

    def never_raises_nll(self, num_classes: int) -> bool:
        """Returns True: the identity is one of the maps, and the fit minimises the NLL."""
        return True

    @property
    def keeps_argmax(self) -> bool:
        """True: a positive factor preserves every order."""
        return True

    def _fit(self, logits_NC: Floats, labels_N: Labels, *, seed: int) -> FittedTemperature:
        return FittedTemperature.of(fit_temperature(logits_NC, labels_N), logits_NC.shape[1])
