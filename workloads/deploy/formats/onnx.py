"""ONNX with a dynamic batch size, for other programs; onnxruntime runs it with dense kernels, zeros included.

Any speedup is due to onnxruntime, not to the masks. Needs the extra `onnx`.

Reference: https://onnx.ai
"""

import importlib
import io
import logging
import warnings
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from torch import Tensor

from pruneyard.workloads.deploy.format import SUM_ORDER, Exported, Fit, check_fit
from pruneyard.workloads.networks.finished import FinishedNetwork

__all__ = ["Onnx"]

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_INPUT, _OUTPUT = "images", "logits"


@dataclass(frozen=True, kw_only=True)
class Onnx:
    tolerance: ClassVar[float] = SUM_ORDER
    device: ClassVar[torch.device] = torch.device("cpu")
    dtype: ClassVar[torch.dtype] = torch.float32

    def fit(self, finished: FinishedNetwork) -> Fit:
        """See `pruneyard.workloads.deploy.format.Format`; supports every network if the packages are installed."""
        missing = [name for name in _PACKAGES if find_spec(name) is None]
        refusal = f"{', '.join(missing)} is not installed: pip install 'pruneyard[onnx]'" if missing else ""
        return Fit(refusal=refusal, dense=dict.fromkeys(finished.layers, "onnxruntime has dense kernels"))

    def build(self, finished: FinishedNetwork, *, batch_size: int) -> Exported:
        """Returns the network in onnxruntime, with as many threads as torch currently uses."""
        content = self.encode(finished)
        runtime: Any = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        # onnxruntime has its own thread pool, which does not follow `torch.set_num_threads`.
        options.intra_op_num_threads = torch.get_num_threads()
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

        def run(images: Tensor) -> Tensor:
            return torch.from_numpy(session.run([_OUTPUT], {_INPUT: images.numpy()})[0])

        return Exported(run=run, kernels=dict.fromkeys(finished.layers, "dense, onnxruntime"))

    def encode(self, finished: FinishedNetwork) -> bytes:
        """Returns one file with all weights."""
        check_fit(self.fit(finished))
        logging.getLogger("onnxscript").setLevel(logging.ERROR)  # its optimizer reports each folded constant
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # the exporter warns about its own internals
            program = torch.onnx.export(
                finished.network,
                # Two images: `torch.export` treats a dimension of size 1 as a constant, so the batch would not be dynamic.
                (finished.random_images(2),),
                dynamo=True,
                dynamic_shapes=({0: "batch"},),
                input_names=[_INPUT],
                output_names=[_OUTPUT],
                verbose=False,
            )
        assert program is not None
        content: bytes = program.model_proto.SerializeToString()
        return content
