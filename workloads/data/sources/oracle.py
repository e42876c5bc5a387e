"""Generated images with known class probabilities, so that a network's true calibration error is known.

Rows are sampled from a Gaussian mixture and rounded to pixels. Then each label is sampled from the posterior of the stored
pixels, so `probabilities` are exact for the stored rows, rounding and label noise included.

Reference: Vaicenavicius et al. 2019, Evaluating model calibration in classification (arXiv:1902.06977), for the idea
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from pruneyard.workloads.data.dataset import PublishedDataset, PublishedSource, Split
from pruneyard.workloads.data.input_statistics import ROWS_PER_CHUNK, Images
from pruneyard.workloads.fields import renamed
from pruneyard.workloads.seeding import stream_seed

__all__ = ["Oracle"]

GREY, PIXEL_STD = 127.5, 45.0  # few pixels lie outside 0 ... 255; those are clipped before labels are sampled
BACKGROUND_STD = 8.0  # of noise on every pixel that is independent of the class


@dataclass(frozen=True, kw_only=True)
class Oracle(PublishedSource):
    """Classes are mixtures of Gaussians with unit covariance; their coordinates weight the lowest cosine patterns of an image.

    dimensions: number of coordinates and patterns. modes: number of Gaussians per class.
    separation: distance of the means from the centre. label_noise: share of labels sampled uniformly from all classes.
    imbalance_ratio: frequency of the last class, relative to each other class.
    """

    num_classes: int = 4
    dimensions: int = 6
    modes: int = 2
    separation: float = 2.5
    label_noise: float = 0.0
    imbalance_ratio: float = field(default=1.0, metadata=renamed("rare"))
    shape: tuple[int, int, int] = (1, 8, 8)  # channels, height, width
    num_train: int = 2000  # val and calib included
    num_test: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.shape) < 1:
            raise ValueError(f"shape is {list(self.shape)}; channels, height and width must be 1 or more")
        num_pixels = self.shape[0] * self.shape[1] * self.shape[2]
        if not 1 <= self.dimensions <= num_pixels:
            raise ValueError(
                f"dimensions is {self.dimensions}; it must lie in 1 ... {num_pixels}, the number of pixels"
            )
        for name, least in (("num_classes", 2), ("modes", 1), ("num_train", 1), ("num_test", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not 0 <= self.separation < np.inf:
            raise ValueError(f"separation is {self.separation}; it must be 0 or more")
        if not 0 <= self.label_noise <= 1:
            raise ValueError(f"label_noise is {self.label_noise}; it must lie in [0, 1]")
        if not 0 < self.imbalance_ratio <= 1:
            raise ValueError(f"imbalance_ratio is {self.imbalance_ratio}; it must lie in (0, 1]")

    def inputs(self) -> tuple[Path, ...]:
        return ()

    def read(self) -> PublishedDataset:
        """Samples both parts. More rows with the same seed begin with the same images."""
        return PublishedDataset(
            classes=tuple(str(label) for label in range(self.num_classes)),
            train=self._part("train", self.num_train),
            test=self._part("test", self.num_test),
        )

    def probabilities(self, images: Images) -> npt.NDArray[np.float64]:
        """Returns p(y | x) of stored images `(N, C, H, W)`: `(N, num_classes)` float64, rows that sum to 1."""
        if images.shape[1:] != self.shape:
            raise ValueError(f"images are {images.shape[1:]} (C, H, W); they must be {self.shape}")
        starts = range(0, len(images), ROWS_PER_CHUNK)
        parts = [self._posterior(images[start : start + ROWS_PER_CHUNK]) for start in starts]
        return np.concatenate([np.zeros((0, self.num_classes)), *parts])

    def _posterior(self, images: Images) -> npt.NDArray[np.float64]:
        """Applies Bayes' rule over all modes. The squared norm of the coordinates cancels, as all modes share it."""
        centred = (images.reshape(len(images), -1) - GREY) / self._scale
        coordinates = centred @ _cosine_patterns(self.shape, self.dimensions).T
        means = self._means().reshape(-1, self.dimensions)
        log_odds = coordinates @ means.T - (means**2).sum(axis=1) / 2
        # Modes of one class are neighbours and share its prior equally.
        log_odds += np.repeat(np.log(self._prior() / self.modes), self.modes)
        mode_posterior = softmax(log_odds, axis=1)
        clean = mode_posterior.reshape(len(images), self.num_classes, self.modes).sum(axis=2)
        return np.asarray((1 - self.label_noise) * clean + self.label_noise / self.num_classes)

    def _part(self, name: str, num: int) -> Split:
        def stream(purpose: str) -> np.random.Generator:
            return np.random.default_rng(stream_seed(self.seed, f"oracle/{name}/{purpose}"))

        weights = np.repeat(self._prior() / self.modes, self.modes)
        # The sum of weights may round below 1, so a number close to 1 could point behind the last mode.
        mode = np.minimum(np.searchsorted(weights.cumsum(), stream("mode").random(num)), len(weights) - 1)
        coordinates = self._means().reshape(-1, self.dimensions)[mode]
        coordinates += stream("place").standard_normal((num, self.dimensions))
        pixels = coordinates @ _cosine_patterns(self.shape, self.dimensions) * self._scale + GREY
        pixels += BACKGROUND_STD * stream("background").standard_normal(pixels.shape)
        images = np.rint(pixels.clip(0, 255)).astype(np.uint8).reshape(num, *self.shape)
        upper = self.probabilities(images).cumsum(axis=1)
        # Scaled by the last sum, which is 1 only up to rounding. Labels are sampled from the stored pixels, after rounding.
        labels = (stream("label").random(num)[:, None] * upper[:, -1:] >= upper).sum(axis=1)
        return Split.from_arrays(images, labels)

    @property
    def _scale(self) -> float:
        """Grey levels per unit of length, chosen such that pixels have the standard deviation `PIXEL_STD` for every shape."""
        num_pixels = self.shape[0] * self.shape[1] * self.shape[2]
        return PIXEL_STD * float(np.sqrt(num_pixels / (self.dimensions + self.separation**2)))

    def _prior(self) -> npt.NDArray[np.float64]:
        shares = np.ones(self.num_classes)
        shares[-1] = self.imbalance_ratio
        return np.asarray(shares / shares.sum())

    def _means(self) -> npt.NDArray[np.float64]:
        """Returns the means (num_classes, modes, dimensions), all at the same distance from the centre."""
        generator = np.random.default_rng(stream_seed(self.seed, "oracle/means"))
        directions = generator.standard_normal((self.num_classes, self.modes, self.dimensions))
        return np.asarray(self.separation * directions / np.linalg.norm(directions, axis=2, keepdims=True))


def _cosine_patterns(shape: tuple[int, int, int], num: int) -> npt.NDArray[np.float64]:
    """Returns the `num` orthonormal cosine patterns of lowest frequency `(num, C * H * W)`, alternating between channels."""
    num_channels, height, width = shape
    order = sorted(
        (down + across, down, across, channel)
        for down in range(height)
        for across in range(width)
        for channel in range(num_channels)
    )
    patterns = np.zeros((num, num_channels, height, width))
    for pattern, (_, down, across, channel) in zip(patterns, order, strict=False):
        pattern[channel] = np.outer(_cosine(height, down), _cosine(width, across))
    return patterns.reshape(num, -1)


def _cosine(length: int, frequency: int) -> npt.NDArray[np.float64]:
    wave = np.cos(np.pi * (np.arange(length) + 0.5) * frequency / length)
    return np.asarray(wave / np.linalg.norm(wave))
