"""Resets a process that ran other trials to the state of a fresh one, so that actors can be reused."""

import ctypes
import gc
import os
import random
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pruneyard.workloads.networks.deferred_compiler import defer_compiler
from pruneyard.workloads.seeding import seed_globally


@dataclass(frozen=True)
class ProcessSnapshot:
    """The environment variables and the working directory of a process before its first trial."""

    environment: Mapping[str, str]
    folder: str

    @classmethod
    def capture(cls) -> "ProcessSnapshot":
        """Returns the current state of this process."""
        return cls(environment=dict(os.environ), folder=os.getcwd())

    def restore(self, *, threads: int) -> None:
        """Restores every global state that a trial may have changed and that can change the numbers of a later trial."""
        for name in set(os.environ) - set(self.environment):
            del os.environ[name]
        for name, value in self.environment.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
        os.chdir(self.folder)
        reset_numerics(threads=threads)


@dataclass(frozen=True)
class NumericsSnapshot:
    """The numeric settings and random states of the caller, kept while trials run in the caller's process."""

    threads: int
    dtype: torch.dtype
    python_state: tuple[Any, ...]
    numpy_state: Mapping[str, Any]
    torch_state: torch.Tensor

    @classmethod
    def capture(cls) -> "NumericsSnapshot":
        """Returns the current settings and random states."""
        numpy_state: Any = np.random.get_state(legacy=False)
        return cls(
            torch.get_num_threads(), torch.get_default_dtype(), random.getstate(), numpy_state, torch.get_rng_state()
        )

    def restore(self) -> None:
        """Restores the settings and random states."""
        torch.set_num_threads(self.threads)
        torch.set_default_dtype(self.dtype)
        random.setstate(self.python_state)
        np.random.set_state(dict(self.numpy_state))
        torch.set_rng_state(self.torch_state)


def reset_numerics(*, threads: int) -> None:
    """Resets the generators, defaults and flags of Python, NumPy and torch to those of a fresh process with `threads` threads."""
    defer_compiler()
    random.seed(0)
    np.random.seed(0)
    # These are NumPy's defaults.
    np.seterr(divide="warn", over="warn", under="ignore", invalid="warn")
    seed_globally(0, device="cuda" if torch.cuda.is_initialized() else "cpu")
    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)
    torch.set_flush_denormal(False)
    torch.set_float32_matmul_precision("highest")
    if torch.are_deterministic_algorithms_enabled() or torch.is_deterministic_algorithms_warn_only_enabled():
        torch.use_deterministic_algorithms(False)  # guarded: the call imports torch's compiler, which takes seconds
    torch.autograd.set_detect_anomaly(False)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = False
    torch.backends.cudnn.allow_tf32 = True  # torch's default; the precision above is of matrix products only
    torch.backends.cudnn.enabled = True
    for device in ("cpu", "cuda"):
        torch.set_autocast_enabled(device, False)
    torch.clear_autocast_cache()
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()  # else a step that another trial compiled may be recompiled for dynamic shapes
    if torch.cuda.is_initialized():
        # Reference cycles keep tensors of the trial before alive, and only free blocks leave the cache.
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def gpu_bytes(device: torch.device) -> int | None:
    """Returns the peak of GPU memory in bytes since `reset_numerics`; None if this process has not used a GPU."""
    on_gpu = device.type == "cuda" and torch.cuda.is_initialized()
    return torch.cuda.max_memory_allocated(device) if on_gpu else None


@dataclass(frozen=True)
class PeakMemory:
    """The peak of resident memory of this process since `start`, minus what it shares with other processes at the end."""

    is_counted: bool

    @classmethod
    def start(cls) -> "PeakMemory":
        """Starts counting, after returning the memory that earlier trials freed to the system."""
        if sys.platform != "linux":
            return cls(is_counted=False)
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if trim is not None:
            trim(0)
        try:
            # 5 resets VmHWM, the peak of resident memory.
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        except OSError:  # a sandbox may forbid it; then the peak of an earlier trial would count as this one's
            return cls(is_counted=False)
        return cls(is_counted=True)

    def bytes(self) -> int | None:
        """Returns the peak in bytes; None if the system does not count it."""
        if not self.is_counted:
            return None
        lines = [line.split() for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines()]
        # VmHWM includes RssShmem, the pages of Ray's object store, which all processes of a node share.
        kibibytes = {line[0]: int(line[1]) for line in lines if line and line[0] in ("VmHWM:", "RssShmem:")}
        return 1024 * (kibibytes["VmHWM:"] - kibibytes.get("RssShmem:", 0)) if "VmHWM:" in kibibytes else None
