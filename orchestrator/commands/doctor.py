"""`pruneyard doctor`: checks what a study needs, or verifies a folder of results; advises how to fix what is wrong."""

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import click
import joblib
import ray
import torch

from pruneyard.cluster.findings import MIN_DISK_BYTES, MIN_SHARED_BYTES, Finding
from pruneyard.cluster.preflight import check_nodes
from pruneyard.cluster.session import LOCAL, session
from pruneyard.orchestrator.artifacts.verification import verify_folder
from pruneyard.orchestrator.coordination.lease import hold_lease
from pruneyard.orchestrator.errors import ExitCode
from pruneyard.orchestrator.remote.storage_check import check_store, check_store_on_nodes
from pruneyard.orchestrator.results import check_results
from pruneyard.reports.durable import write_durably
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location, located
from pruneyard.reports.objects import ObjectPath
from pruneyard.reports.store import Store


class CheckFailedError(Exception):
    """A failed check, with advice on how to fix it."""


def execute(folder: Location | None, repair: bool, address: str, out: Location | None) -> int:
    """Check Python, torch, devices, storage and Ray; with --address a cluster, on every node.

    With DIR, verify that folder of results instead: every table, record, artifact and checkpoint against its checksums.
    """
    if folder is not None:
        return _report(_folder_findings(RunFolder(folder), repair=repair))
    if repair:
        raise click.UsageError("--repair needs the folder to repair")
    given = os.environ.get("PRUNEYARD_OUT")
    place = out or (located(given) if given else Path() if address == LOCAL else None)
    return _report(_findings(address, place.absolute() if place is not None else None))


def _report(findings: Iterator[Finding]) -> ExitCode:
    """Prints the findings; returns FAILED if one of them is bad."""
    good = True
    for finding in findings:
        good = good and finding.good
        click.echo(f"{'ok   ' if finding.good else 'WRONG'} {finding.name}: {finding.text}")
    return ExitCode.FINISHED if good else ExitCode.FAILED


def _folder_findings(folder: RunFolder, *, repair: bool) -> Iterator[Finding]:
    """Yields a finding for each problem of the folder, and one for each part without problems."""
    check_results(folder)
    if repair:
        with hold_lease(folder.path):
            keys = set(folder.runs_with_artifacts())
            restored = Store(folder).restore(keys)
        for note in restored.notes:
            yield Finding(name="repaired", good=True, text=note)
        if restored.refusal:
            yield Finding(name="repair", good=False, text=f"nothing was changed: {restored.refusal}")
    advice = "" if repair else f"; to write rows again from their records: pruneyard doctor {folder.path} --repair"
    for name, extent, problems in verify_folder(folder):
        for problem in problems:
            yield Finding(name=name, good=False, text=f"{problem}{advice if name == 'tables' else ''}")
        if not problems:
            yield Finding(name=name, good=True, text=extent)


def _findings(address: str, out: Location | None) -> Iterator[Finding]:
    """Yields the findings on this machine, then those on the nodes of the cluster."""
    yield from check_machine(out or Path.cwd())
    try:
        yield from _cluster(address, out)
        if out is None:
            text = "not checked on the nodes; give --out, or set PRUNEYARD_OUT"
            yield Finding(name="storage", good=True, text=text)
    except ConnectionError as error:
        yield Finding(name="ray", good=False, text=str(error))


def check_machine(out: Location) -> Iterator[Finding]:
    """Yields the findings on this machine and on the results folder as seen from it."""
    checks: list[tuple[str, Callable[[], str]]] = [
        ("python", _python),
        ("torch", _torch),
        ("devices here", _devices),
        ("storage here", lambda: _storage(out)),
        ("shared memory here", _shared_memory),
    ]
    for name, check in checks:
        try:
            yield Finding(name=name, good=True, text=check())
        except (CheckFailedError, OSError) as error:
            yield Finding(name=name, good=False, text=str(error))


def _python() -> str:
    return f"{platform.python_version()} on {platform.system()} {platform.machine()}, pruneyard {version('pruneyard')}"


def _torch() -> str:
    product = torch.rand(64, 64, generator=torch.Generator().manual_seed(0)) @ torch.eye(64)
    if not torch.isfinite(product).all():
        raise CheckFailedError("a matrix product gave numbers that are not finite; install torch again")
    return f"{torch.__version__}, torchvision {version('torchvision')}, {torch.get_num_threads()} threads"


def _devices() -> str:
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{joblib.cpu_count()} usable CPU cores of {os.cpu_count()}; GPUs: {', '.join(gpus) or 'none'}"


def _storage(folder: Location) -> str:
    if isinstance(folder, ObjectPath):
        return check_store(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < MIN_DISK_BYTES:
            raise CheckFailedError(f"{free / 2**30:.1f} GiB free in {folder}; free some, or give another --out")
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=folder, prefix=".pruneyard-doctor-") as scratch:
            write_durably(Path(scratch) / "probe", b"probe")
        took_ms = (time.perf_counter() - started) * 1e3
    except OSError as error:
        advice = "give another --out, or fix its permissions"
        raise CheckFailedError(f"{folder} cannot be written: {error}; {advice}") from error
    return f"{folder} is writable, {free / 2**30:.0f} GiB free, a durable write takes {took_ms:.1f} ms"


def _shared_memory() -> str:
    shared = Path("/dev/shm")
    if not shared.is_dir():
        return "no /dev/shm here; Ray uses files instead"
    free = shutil.disk_usage(shared).free
    if free < MIN_SHARED_BYTES:
        raise CheckFailedError(
            f"{free / 2**20:.0f} MiB free in {shared}; start the container with --shm-size=2g or more"
        )
    return f"{free / 2**30:.1f} GiB free"


def _cluster(address: str, out: Location | None) -> Iterator[Finding]:
    """Yields how the cluster was reached, and then what `check_nodes` finds on every node."""
    started = time.perf_counter()
    with session(address) as joined:
        where = "a cluster started here" if address == LOCAL else joined.address
        took = time.perf_counter() - started
        size = f"{joined.num_nodes} nodes, {joined.cpus:g} CPUs, {joined.gpus:g} GPUs"
        yield Finding(name="ray", good=True, text=f"{ray.__version__}, {where}: {size}, in {took:.1f} s")
        if isinstance(out, ObjectPath):
            yield from check_nodes(None)
            yield from check_store_on_nodes(out)
        else:
            yield from check_nodes(out)
