"""A synthetic set: images, labels and how to read them, in memory and in a file that says all of it."""

import json
from dataclasses import dataclass

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

from pruneyard.workloads.data.multi_formation import decode, decoded_labels

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class SyntheticSet:
    """IPC x classes images, class after class, with hard labels and perhaps soft ones.

    images: (N, C, H, W) float32, pixels with black 0 and white 1, not clamped: what was optimised may lie outside.
    labels: (N,) int64. soft_labels: (N, K) float32 probabilities, or no rows at all.
    factor: each stored image stands for factor^2 training images (multi-formation); 1: for itself.
    mean, std: per channel, what images are normalised with before a network sees them.
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
        if self.labels.dtype != torch.int64 or self.labels.shape != (len(self.images),):
            came = f"{self.labels.dtype} {tuple(self.labels.shape)}"
            raise ValueError(f"labels are {came}; they must be int64 ({len(self.images)},)")
        if len(self.soft_labels) not in (0, len(self.images)):
            raise ValueError(f"soft_labels have {len(self.soft_labels)} rows; they must have none or {len(self.images)}")
        if self.factor < 1:
            raise ValueError(f"factor is {self.factor}; it must be 1 or more")

    @property
    def size_bytes(self) -> int:
        """Of images and labels as stored; hard labels follow from the order and cost nothing."""
        return sum(t.numel() * t.element_size() for t in (self.images, self.soft_labels))

    def training_images(self) -> Tensor:
        """Decoded and normalised: (factor^2 N, C, H, W), as a network sees them, on the images' device."""
        mean, std = (self.images.new_tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return (decode(self.images, self.factor) - mean) / std

    def targets(self, num_classes: int) -> Tensor:
        """Probabilities (factor^2 N, K) in the order of `training_images`: soft labels where there are some."""
        hard = functional.one_hot(self.labels, num_classes).to(torch.float32)
        return decoded_labels(self.soft_labels if len(self.soft_labels) else hard, self.factor)

    def to_bytes(self) -> bytes:
        """A safetensors file; its metadata say how to read it."""
        tensors = {"images": self.images, "labels": self.labels, "soft_labels": self.soft_labels}
        about = {"format": FORMAT_VERSION, "mean": self.mean, "std": self.std, "factor": self.factor}
        held = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        return safetensors.torch.save(held, metadata={"synthetic_set": json.dumps(about)})

    @classmethod
    def from_file(cls, path: str) -> "SyntheticSet":
        """Reads what `to_bytes` wrote; raises `ValueError` that names the file for anything else."""
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads((file.metadata() or {})["synthetic_set"])
                tensors = {name: file.get_tensor(name) for name in ("images", "labels", "soft_labels")}
        except Exception as error:  # whatever two readers raise on a file that is something else
            raise ValueError(f"{path} is no synthetic set: {error!r}") from error
        if about.get("format") != FORMAT_VERSION:
            raise ValueError(f"{path} has format {about.get('format')}; this version reads {FORMAT_VERSION}")
        return cls(**tensors, mean=tuple(about["mean"]), std=tuple(about["std"]), factor=int(about["factor"]))
