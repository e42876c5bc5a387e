"""Made pictures whose class probabilities are known, and with them a network's true calibration error.

Rows are drawn from a Gaussian mixture, rounded to pixels, and only then given labels: each from the posterior of its own
stored pixels. So `probabilities` are exact for the rows as they are, rounding and label noise included.

Reference: Vaicenavicius et al. 2019, Evaluating model calibration in classification (arXiv:1902.06977), for the idea
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from pruneyard.workloads.data.dataset import ROWS_PER_CHUNK, Images, Published, Publisher, Split
from pruneyard.workloads.seeding import stream_seed

__all__ = ["Oracle"]

GREY, PIXEL_STD = 127.5, 45.0  # few pixels leave 0 ... 255; those that do are cut off before labels are drawn
BACKGROUND_STD = 8.0  # of every pixel, saying nothing of the class


@dataclass(frozen=True, kw_only=True)
class Oracle(Publisher):
    """Classes are mixtures of `modes` Gaussians of unit covariance in `dimensions` dimensions, the lowest cosines of a picture.

    separation: distance of the means from the centre; label_noise: the share of labels drawn from all classes alike;
    rare: how frequent the last class is, relative to each other one.
    """

    num_classes: int = 4
    dimensions: int = 6
    modes: int = 2
    separation: float = 2.5
    label_noise: float = 0.0
    rare: float = 1.0
    shape: tuple[int, int, int] = (1, 8, 8)  # channels, height, width
    num_train: int = 2000  # val and calib among them
    num_test: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.shape) < 1:
            raise ValueError(f"shape is {list(self.shape)}; channels, height and width must be 1 or more")
        num_pixels = self.shape[0] * self.shape[1] * self.shape[2]
        if not 1 <= self.dimensions <= num_pixels:
            raise ValueError(
                f"dimensions is {self.dimensions}; it must lie in 1 ... {num_pixels}, the pixels there are"
            )
        for name, least in (("num_classes", 2), ("modes", 1), ("num_train", 1), ("num_test", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not 0 <= self.separation < np.inf:
            raise ValueError(f"separation is {self.separation}; it must be 0 or more")
        if not 0 <= self.label_noise <= 1:
            raise ValueError(f"label_noise is {self.label_noise}; it must lie in [0, 1]")
        if not 0 < self.rare <= 1:
            raise ValueError(f"rare is {self.rare}; it must lie in (0, 1]")

    def read(self) -> Published:
        """Draws both parts; each is the start of a longer one with the same seed."""
        return Published(
            classes=tuple(str(label) for label in range(self.num_classes)),
            train=self._part("train", self.num_train),
            test=self._part("test", self.num_test),
        )

    def probabilities(self, images: Images) -> npt.NDArray[np.float64]:
        """p(y | x) of stored pictures `(N, C, H, W)`: `(N, num_classes)` float64, rows that sum to 1."""
        if images.shape[1:] != self.shape:
            raise ValueError(f"images are {images.shape[1:]} (C, H, W); they must be {self.shape}")
        starts = range(0, len(images), ROWS_PER_CHUNK)
        parts = [self._posterior(images[start : start + ROWS_PER_CHUNK]) for start in starts]
        return np.concatenate([np.zeros((0, self.num_classes)), *parts])

    def _posterior(self, images: Images) -> npt.NDArray[np.float64]:
        """By Bayes' rule over all modes; what all share, squared norms of places and of means, cancels or is added."""
        centred = (images.reshape(len(images), -1) - GREY) / self._scale
        places = centred @ _cosines(self.shape, self.dimensions).T
        means = self._means().reshape(-1, self.dimensions)
        log_odds = places @ means.T - (means**2).sum(axis=1) / 2
        log_odds += np.repeat(np.log(self._prior() / self.modes), self.modes)
        of_modes = softmax(log_odds, axis=1)
        clean = of_modes.reshape(len(images), self.num_classes, self.modes).sum(axis=2)
        return np.asarray((1 - self.label_noise) * clean + self.label_noise / self.num_classes)

    def _part(self, name: str, num: int) -> Split:
        def stream(what: str) -> np.random.Generator:
            return np.random.default_rng(stream_seed(self.seed, f"oracle/{name}/{what}"))

        weights = np.repeat(self._prior() / self.modes, self.modes)
        mode = np.minimum(np.searchsorted(weights.cumsum(), stream("mode").random(num)), len(weights) - 1)
        places = self._means().reshape(-1, self.dimensions)[mode]
        places += stream("place").standard_normal((num, self.dimensions))
        pixels = places @ _cosines(self.shape, self.dimensions) * self._scale + GREY
        pixels += BACKGROUND_STD * stream("background").standard_normal(pixels.shape)
        images = np.rint(pixels.clip(0, 255)).astype(np.uint8).reshape(num, *self.shape)
        upper = self.probabilities(images).cumsum(axis=1)
        labels = (stream("label").random(num)[:, None] * upper[:, -1:] >= upper).sum(axis=1)
        return Split.from_arrays(images, labels)

    @property
    def _scale(self) -> float:
        """Grey levels for a length of 1, so that pixels have `PIXEL_STD` whatever the shape."""
        num_pixels = self.shape[0] * self.shape[1] * self.shape[2]
        return PIXEL_STD * float(np.sqrt(num_pixels / (self.dimensions + self.separation**2)))

    def _prior(self) -> npt.NDArray[np.float64]:
        shares = np.ones(self.num_classes)
        shares[-1] = self.rare
        return np.asarray(shares / shares.sum())

    def _means(self) -> npt.NDArray[np.float64]:
        """(num_classes, modes, dimensions), all at the same distance from the centre."""
        generator = np.random.default_rng(stream_seed(self.seed, "oracle/means"))
        directions = generator.standard_normal((self.num_classes, self.modes, self.dimensions))
        return np.asarray(self.separation * directions / np.linalg.norm(directions, axis=2, keepdims=True))


def _cosines(shape: tuple[int, int, int], num: int) -> npt.NDArray[np.float64]:
    """The lowest `num` orthonormal cosine patterns `(num, C * H * W)`, channels in turn."""
    num_channels, height, width = shape
    order = sorted(
        (down + across, down, across, channel)
        for down in range(height)
        for across in range(width)
        for channel in range(num_channels)
    )
    patterns = np.zeros((num, num_channels, height, width))
    for pattern, (_, down, across, channel) in zip(patterns, order, strict=False):
        pattern[channel] = np.outer(_wave(height, down), _wave(width, across))
    return patterns.reshape(num, -1)


def _wave(length: int, frequency: int) -> npt.NDArray[np.float64]:
    wave = np.cos(np.pi * (np.arange(length) + 0.5) * frequency / length)
    return np.asarray(wave / np.linalg.norm(wave))
