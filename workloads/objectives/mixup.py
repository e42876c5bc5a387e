"""Cross-entropy of images that are mixed in pairs, against both labels in the shares of the mixture (mixup).

Reference: Zhang et al. 2018, mixup: Beyond Empirical Risk Minimization (arXiv:1710.09412)

x = lam x_i + (1 - lam) x_j and loss = lam CE(y_i) + (1 - lam) CE(y_j), lam from Beta(alpha, alpha), sampled once a step;
images are mixed after augmentation. With alpha 0 it is `cross_entropy`. Thulasidasan et al. 2019 (arXiv:1905.11001)
examine it for calibration. With other softening (label smoothing, ensembles), predictions may become too soft
(unverified: from general knowledge): check the sign of accuracy - confidence.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruneyard.workloads.losses.mixing import MixingObjective
from pruneyard.workloads.plugins import Settings

__all__ = ["Mixup"]


@dataclass(frozen=True, kw_only=True)
class Mixup(MixingObjective):
    neutral_settings: ClassVar[tuple[Settings, ...]] = ({"alpha": 0.0},)
    alpha: float = 0.2  # 0.2 to 0.4 are usual

    def mix(
        self, images: Tensor, partners: Tensor, share: float, generator: torch.Generator
    ) -> tuple[Tensor, float]:
        """Returns images mixed pixel by pixel, and their weight."""
        return share * images + (1 - share) * partners, share
