"""Energy score: negative free energy T logsumexp(z / T) of the class logits; for T towards 0 the largest logit.

It depends on the magnitude of logits, so it is less informative with label smoothing or normalised logits.

Reference: Liu, Wang, Owens and Li 2020, Energy-based Out-of-distribution Detection (arXiv:2010.03759)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from scipy.special import logsumexp

from pruneyard.workloads.calibrate.evidence import LOGITS, Evidence, Floats
from pruneyard.workloads.calibrate.score import Immediate

__all__ = ["Energy"]


@dataclass(frozen=True, kw_only=True)
class Energy(Immediate):
    """Score T logsumexp(z / T)."""

    needs: ClassVar[frozenset[str]] = frozenset({LOGITS})
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType({"temperature": (1.0, 10.0, 100.0)})

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0")

    def of(self, evidence: Evidence) -> Floats:
        return np.asarray(self.temperature * logsumexp(evidence.class_logits / self.temperature, axis=1))
