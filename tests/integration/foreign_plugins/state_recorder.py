"""Static masks that record the state of their process at the first step."""

import json
import os
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pruneyard.workloads.sparse.updater import RandomStart

__all__ = ["StateRecorder"]


@dataclass(frozen=True, kw_only=True)
class StateRecorder(RandomStart):
    """Trains like `static`."""

    def is_due(self, step: int, *, num_steps: int) -> bool:
        if step > 0:
            return False
        seen = {
            "folder": os.getcwd(),
            "environment": dict(os.environ),
            "python_draw": random.getstate()[1][:3],
            "numpy_draw": [int(word) for word in np.random.get_state()[1][:3]],
            "numpy_errors": np.geterr(),
            "threads": torch.get_num_threads(),
            "dtype": str(torch.get_default_dtype()),
            "device": str(torch.get_default_device()),
            "grad": torch.is_grad_enabled(),
            "precision": torch.get_float32_matmul_precision(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "anomaly": torch.is_anomaly_enabled(),
            "benchmark": torch.backends.cudnn.benchmark,
            "autocast": torch.is_autocast_enabled("cpu"),
            "denormal": float(torch.tensor(1e-40) * 1),
        }
        with Path(os.environ["STATE_RECORDS"]).open("a") as file:
            file.write(json.dumps({"who": "state_recorder", "pid": os.getpid(), "seen": seen}) + "\n")
        return False
