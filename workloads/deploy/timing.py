"""Latency of a network and of its dense baseline, by alternating measurements in one process with the same threads."""

import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

Network = Callable[[Tensor], Tensor]

LEAST_SPAN_S = 2e-3  # shortest measurement: calls are grouped until they take this long
LEAST_ROUNDS, MOST_ROUNDS = 11, 101
WARM_UP_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Seconds of one forward pass of one batch, and the speedup over the dense baseline: median, 10th and 90th percentile.

    The speedup is computed per round, in which both networks ran, so that temporary load on the machine affects both.
    """

    median_s: float
    low_s: float
    high_s: float
    dense_median_s: float
    speedup: float  # below 1 is slower
    speedup_low: float
    speedup_high: float
    num_repeats: int


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Sets the number of torch's threads inside the context and restores it afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compare(
    network: Network,
    twin: Network,
    images: Tensor,
    *,
    span_s: float = 2.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Latency:
    """Times both networks for about `span_s` after a warm-up. They alternate, and the order changes with every round.

    twin: the dense baseline. On a busy machine `clock` may be `time.thread_time`, which does not advance while another process
    uses the CPU; the result is then the CPU time of one thread, not the time that a caller waits.
    """
    runs = {"network": network, "twin": twin}
    with torch.inference_mode():
        calls = {name: _calls_per_measurement(run, images) for name, run in runs.items()}
        round_s = sum(count * once_s for count, once_s in calls.values())
        rounds = int(min(max(span_s / round_s, LEAST_ROUNDS), MOST_ROUNDS))
        times: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(rounds):
            for name in sorted(runs, reverse=bool(number % 2)):
                times[name].append(_mean_seconds(runs[name], images, calls[name][0], clock))
    return _latency(np.array(times["network"]), np.array(times["twin"]))


def _latency(times_s: np.ndarray, dense_s: np.ndarray) -> Latency:
    low_s, median_s, high_s = np.percentile(times_s, (10, 50, 90)).tolist()
    slowest, typical, fastest = np.percentile(dense_s / times_s, (10, 50, 90)).tolist()
    return Latency(
        median_s=median_s,
        low_s=low_s,
        high_s=high_s,
        dense_median_s=float(np.median(dense_s)),
        speedup=typical,
        speedup_low=slowest,
        speedup_high=fastest,
        num_repeats=len(times_s),
    )


def least_times(networks: Mapping[str, Network], inputs: Tensor, *, rounds: int) -> dict[str, float]:
    """Returns the least seconds of a call of each network, measured alternately; disturbances can only increase a time."""
    with torch.inference_mode():
        calls = {
            name: _calls_per_measurement(run, inputs, span_s=5e-4, warm_up_s=5e-3)[0] for name, run in networks.items()
        }
        times = dict.fromkeys(networks, math.inf)
        for _ in range(rounds):
            for name, run in networks.items():
                times[name] = min(times[name], _mean_seconds(run, inputs, calls[name]))
    return times


def _calls_per_measurement(
    run: Network, inputs: Tensor, *, span_s: float = LEAST_SPAN_S, warm_up_s: float = WARM_UP_S
) -> tuple[int, float]:
    """Warms up; returns how many calls form one measurement, and the seconds of one call."""
    started = time.perf_counter()
    for _ in range(3):
        run(inputs)
    while time.perf_counter() - started < warm_up_s:
        run(inputs)
    # A clock may measure 0 s for a very fast call, and the next line divides by it.
    once_s = max(min(_mean_seconds(run, inputs, 1) for _ in range(3)), 1e-7)
    return max(1, round(span_s / once_s)), once_s


def _mean_seconds(
    run: Network, inputs: Tensor, calls: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Returns the mean seconds of `calls` consecutive calls; waits for a GPU to finish them."""
    _synchronize()
    started = clock()
    for _ in range(calls):
        run(inputs)
    _synchronize()
    return (clock() - started) / calls


def _synchronize() -> None:
    # `synchronize` would otherwise create a CUDA context in a process that uses the CPU only.
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def device_name(device: torch.device) -> str:
    """Returns the model name of the GPU, or of the CPU as the operating system reports it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    # Linux only, and not every CPU has a model name there; hence the two fallbacks below.
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
