"""Changes all global state of a process, and then fails."""

import json
import os
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pruneyard.workloads.sparse.updater import RandomStart

__all__ = ["Polluting"]


@dataclass(frozen=True, kw_only=True)
class Polluting(RandomStart):
    """Leaves nothing of its process's state as it was."""

    def is_due(self, step: int, *, num_steps: int) -> bool:
        if step < 3:
            return False
        with Path(os.environ["STATE_RECORDS"]).open("a") as file:
            file.write(json.dumps({"who": "polluting", "pid": os.getpid()}) + "\n")
        os.environ["POLLUTED"] = "yes"
        os.environ["STEP_DELAY_FILE"] = "/dev/null"
        del os.environ["STATE_RECORDS"]
        os.chdir("/")
        random.seed(13)
        np.random.seed(13)
        np.seterr(all="raise")
        torch.manual_seed(13)
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.set_flush_denormal(True)
        torch.set_float32_matmul_precision("medium")
        torch.use_deterministic_algorithms(True)
        torch.autograd.set_detect_anomaly(True)
        torch.backends.cudnn.benchmark = True
        torch.set_autocast_enabled("cpu", True)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        raise RuntimeError("polluted <script>everything</script> [bold]here[/bold]")
