"""A synthetic set: images, labels and how to decode them, in memory and in a self-describing file."""

import json
from dataclasses import dataclass

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

from pruneyard.workloads.data.multi_formation import decode, decode_labels

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class SyntheticSet:
    """A set of IPC x classes images, class after class, with hard labels and optionally soft labels.

    images: (N, C, H, W) float32 pixels, black is 0 and white is 1. Others are refused, so that networks are trained on what the
        file contains and its picture shows; a method whose pixels leave [0, 1] clamps them before they become a set.
    labels: (N,) int64. soft_labels: (N, K) float32 probabilities, or no rows at all.
    factor: each stored image is decoded to factor^2 training images (multi-formation); with 1 it is used as it is.
    mean, std: per channel, the statistics that images are normalised with.
    """

    images: Tensor
    labels: Tensor
    soft_labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    factor: int = 1

    def __post_init__(self) -> None:
        if self.images.dtype != torch.float32 or self.images.ndim != 4:
            came = f"{self.images.dtype} {tuple(self.images.shape)}"
            raise ValueError(f"images are {came}; they must be float32 (N, C, H, W)")
        lowest, highest = (float(value) for value in torch.aminmax(self.images))
        if not (lowest >= 0 and highest <= 1):  # also refuses NaN
            raise ValueError(f"images have pixels from {lowest:g} to {highest:g}; they must lie in [0, 1]")
        if self.labels.dtype != torch.int64 or self.labels.shape != (len(self.images),):
            came = f"{self.labels.dtype} {tuple(self.labels.shape)}"
            raise ValueError(f"labels are {came}; they must be int64 ({len(self.images)},)")
        if len(self.soft_labels) not in (0, len(self.images)):
            raise ValueError(f"soft_labels have {len(self.soft_labels)} rows; they must have none or {len(self.images)}")
        if self.factor < 1:
            raise ValueError(f"factor is {self.factor}; it must be 1 or more")

    @property
    def size_bytes(self) -> int:
        """Size of images and soft labels as stored. Hard labels follow from the order of the images and need no space."""
        return sum(t.numel() * t.element_size() for t in (self.images, self.soft_labels))

    def training_images(self) -> Tensor:
        """Returns decoded and normalised images (factor^2 N, C, H, W) on the images' device, as input of a network."""
        mean, std = (self.images.new_tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return (decode(self.images, self.factor) - mean) / std

    def targets(self, num_classes: int) -> Tensor:
        """Returns target probabilities (factor^2 N, K) in the order of `training_images`: soft labels if the set has them."""
        hard = functional.one_hot(self.labels, num_classes).to(torch.float32)
        return decode_labels(self.soft_labels if len(self.soft_labels) else hard, self.factor)

    def to_bytes(self) -> bytes:
        """Returns the content of a safetensors file whose metadata describe how to decode the images."""
        tensors = {"images": self.images, "labels": self.labels, "soft_labels": self.soft_labels}
        description = {"format": FORMAT_VERSION, "mean": self.mean, "std": self.std, "factor": self.factor}
        # safetensors saves no views with gaps.
        contiguous = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        return safetensors.torch.save(contiguous, metadata={"synthetic_set": json.dumps(description)})

    @classmethod
    def from_file(cls, path: str) -> "SyntheticSet":
        """Reads a file that `to_bytes` wrote. Raises `ValueError` that names the file if it is any other file."""
        try:
            with safe_open(path, framework="pt") as file:
                description = json.loads((file.metadata() or {})["synthetic_set"])
                tensors = {name: file.get_tensor(name) for name in ("images", "labels", "soft_labels")}
        except Exception as error:  # safetensors and json raise many types of errors on other files
            raise ValueError(f"{path} is not a synthetic set: {error!r}") from error
        if description.get("format") != FORMAT_VERSION:
            raise ValueError(f"{path} has format {description.get('format')}; this version reads {FORMAT_VERSION}")
        mean, std = tuple(description["mean"]), tuple(description["std"])
        try:
            return cls(**tensors, mean=mean, std=std, factor=int(description["factor"]))
        except ValueError as error:
            raise ValueError(f"{path}: {error}; if an earlier version wrote it, run its distill job again") from error
