"""The file of scores that a job with a scoring run writes, so that other jobs need not repeat the run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import safetensors.torch
from safetensors import safe_open
from torch import Tensor

FILE = "scores.safetensors"  # among the artifacts of a distill job whose rule needs scores
FORMAT_VERSION = 1
MOMENTUM_PREFIX = "velocity/"  # starts the names of the optimizer's momenta; a finished run does not need them


@dataclass(frozen=True, kw_only=True)
class SavedScores:
    """The state of a finished scoring run, without momenta.

    data: the fingerprint of the data set whose training rows were scored.
    layers: the layers whose gradient norms were measured: "all", "classifier", or "" for none.
    """

    tensors: Mapping[str, Tensor]
    data: str
    layers: str

    def to_bytes(self) -> bytes:
        """Returns the content of a safetensors file whose metadata describe data and layers."""
        tensors = {
            name: t.cpu().contiguous() for name, t in self.tensors.items() if not name.startswith(MOMENTUM_PREFIX)
        }
        description = {"format": FORMAT_VERSION, "data": self.data, "layers": self.layers}
        return safetensors.torch.save(tensors, metadata={"scores": json.dumps(description)})

    @classmethod
    def from_file(cls, path: str) -> "SavedScores":
        """Reads a file that `to_bytes` wrote. Raises `ValueError` that names the file if it is any other file."""
        try:
            with safe_open(path, framework="pt") as file:
                description = json.loads((file.metadata() or {})["scores"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except Exception as error:  # safetensors and json raise many types of errors on other files
            raise ValueError(f"{path} is not a file of scores: {error!r}") from error
        if description.get("format") != FORMAT_VERSION:
            raise ValueError(f"{path} has format {description.get('format')}; this version reads {FORMAT_VERSION}")
        return cls(tensors=tensors, data=description["data"], layers=description["layers"])
