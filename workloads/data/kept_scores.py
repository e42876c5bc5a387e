"""What a scoring run found out, as the file that its job leaves, so that other jobs need not make the run again."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import safetensors.torch
from safetensors import safe_open
from torch import Tensor

FILE = "scores.safetensors"  # in the artifact of a distill job whose rule asks for scores
FORMAT_VERSION = 1
MOMENTA = "velocity/"  # names of a state that no finished run needs


@dataclass(frozen=True, kw_only=True)
class KeptScores:
    """The state of a finished scoring run, but for its momenta.

    data: fingerprint of the data set whose training rows were scored.
    layers: of which each row's gradient was measured: all, classifier, or none of them.
    """

    tensors: Mapping[str, Tensor]
    data: str
    layers: str

    def to_bytes(self) -> bytes:
        """A safetensors file; its metadata say what it is of."""
        held = {
            name: t.cpu().contiguous() for name, t in self.tensors.items() if not name.startswith(MOMENTA)
        }
        about = {"format": FORMAT_VERSION, "data": self.data, "layers": self.layers}
        return safetensors.torch.save(held, metadata={"scores": json.dumps(about)})

    @classmethod
    def from_file(cls, path: str) -> "KeptScores":
        """Reads what `to_bytes` wrote; raises `ValueError` that names the file for anything else."""
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads((file.metadata() or {})["scores"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        except Exception as error:  # whatever two readers raise on a file that is something else
            raise ValueError(f"{path} holds no scores: {error!r}") from error
        if about.get("format") != FORMAT_VERSION:
            raise ValueError(f"{path} has format {about.get('format')}; this version reads {FORMAT_VERSION}")
        return cls(tensors=tensors, data=about["data"], layers=about["layers"])
