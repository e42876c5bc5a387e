"""`pruneyard doctor`: checks what a study will need, and says what to do about what is wrong."""

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import click
import ray
import torch

from cluster.session import LOCAL, session
from orchestrator.commands.run import address_option
from orchestrator.errors import ExitCode
from reports.durable import write_durably

LEAST_SHARED_BYTES = 1 << 30
LEAST_DISK_BYTES = 5 << 30


class Finding(Exception):
    """Something wrong, with what to do about it."""


@click.command("doctor")
@address_option
def command(address: str) -> int:
    """Check Python, torch, devices, storage and Ray; with --address a cluster, on every node."""
    checks: list[tuple[str, Callable[[], str]]] = [
        ("python", _python),
        ("torch", _torch),
        ("devices", _devices),
        ("storage", _storage),
        ("shared memory", _shared_memory),
        ("ray", lambda: _ray(address)),
    ]
    good = True
    for name, check in checks:
        try:
            click.echo(f"ok    {name}: {check()}")
        except (Finding, OSError, ConnectionError) as finding:
            good = False
            click.echo(f"WRONG {name}: {finding}")
    return ExitCode.FINISHED if good else ExitCode.FAILED


def _python() -> str:
    return f"{platform.python_version()} on {platform.system()} {platform.machine()}, pruneyard {version('pruneyard')}"


def _torch() -> str:
    product = torch.rand(64, 64, generator=torch.Generator().manual_seed(0)) @ torch.eye(64)
    if not torch.isfinite(product).all():
        raise Finding("a matrix product gave numbers that are not finite; install torch again")
    return f"{torch.__version__}, torchvision {version('torchvision')}, {torch.get_num_threads()} threads"


def _devices() -> str:
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{os.cpu_count()} CPU cores; GPUs: {', '.join(gpus) or 'none'}"


def _storage() -> str:
    folder = Path.cwd()
    free = shutil.disk_usage(folder).free
    if free < LEAST_DISK_BYTES:
        raise Finding(f"{free / 2**30:.1f} GiB free in {folder}; free some, or give another --out")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder, prefix=".pruneyard-doctor-") as scratch:
        write_durably(Path(scratch) / "probe", b"probe")
    took_ms = (time.perf_counter() - started) * 1e3
    return f"{folder} is writable, {free / 2**30:.0f} GiB free, a durable write takes {took_ms:.1f} ms"


def _shared_memory() -> str:
    shared = Path("/dev/shm")
    if not shared.is_dir():
        return "no /dev/shm here; Ray uses files instead"
    free = shutil.disk_usage(shared).free
    if free < LEAST_SHARED_BYTES:
        raise Finding(f"{free / 2**20:.0f} MiB free in {shared}; start the container with --shm-size=2g or more")
    return f"{free / 2**30:.1f} GiB free"


def _ray(address: str) -> str:
    started = time.perf_counter()
    with session(address) as joined:
        nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        found = ray.get([_versions.options(label_selector={"ray.io/node-id": node}).remote() for node in nodes])
        own = _own_versions()
        for node, versions in zip(nodes, found, strict=True):
            if versions != own:
                raise Finding(f"node {node[:8]} has {versions}, this one {own}; install the same everywhere")
    where = "a cluster started here" if address == LOCAL else joined.address
    took = time.perf_counter() - started
    return f"{ray.__version__}, {where}: {joined.num_nodes} nodes, {joined.cpus:g} CPUs, {joined.gpus:g} GPUs, in {took:.1f} s"


def _own_versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("pruneyard", "ray", "torch", "numpy", "pyarrow")},
    }


@ray.remote(num_cpus=0)
def _versions() -> dict[str, str]:
    return _own_versions()
