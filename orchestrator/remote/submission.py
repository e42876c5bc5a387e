"""Shared by the commands for submitted jobs: finding the cluster, submitting a study, and reporting its outcome."""

import hashlib
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pruneyard.cluster.access import Access, access_to
from pruneyard.cluster.bundle import PINS, SPEC, write_bundle
from pruneyard.cluster.jobs import (
    JobServer,
    JobView,
    RefusedError,
    UnknownJobError,
    asks_for_token,
    job_server,
)
from pruneyard.cluster.notes import Note, last_note, read_note, write_note
from pruneyard.cluster.pins import PRESENT
from pruneyard.orchestrator.errors import ClusterError, UsageError
from pruneyard.reports.location import SCHEMES, Location
from pruneyard.workloads.user_code.shipping import files_to_copy

if TYPE_CHECKING:
    from pruneyard.orchestrator.spec.load import Spec


NO_FOLDER = (
    "give pruneyard submit an --out, or set PRUNEYARD_OUT on the cluster to a folder that every node sees"
)


MAX_LINES = 20  # of a failed check that are shown

OUTCOMES = {
    0: "finished",
    1: "failed: some job did, or the command itself",
    2: "refused: bad usage, spec, data or versions",
    3: "stopped",
    4: "never ran: the cluster could not start it",
    5: "failed a gate",
    130: "interrupted",
}
"""The meaning of a study's exit codes."""


@contextmanager
def connect(address: str | None, job_id: str = "") -> Iterator[tuple[Access, JobServer]]:
    """Yields the job server. Raises `UsageError` or `ClusterError`, also for errors inside the block."""
    note = read_note(job_id)
    where = address or (note.address if note is not None else None)
    if where is None and (last := last_note(besides=job_id)) is not None:
        where = last.address
        print_message(f"{where}, as {last.job_id} was submitted there last")
    if where is None:
        raise UsageError(
            "--address: is missing; give the URL of the cluster's job server, or set PRUNEYARD_ADDRESS"
        )
    try:
        found = access_to(where)
    except ValueError as error:
        raise UsageError(f"--address: {error}") from error
    try:
        with job_server(found) as server:
            yield found, server
    except UnknownJobError as error:
        raise UsageError(str(error)) from error
    except ConnectionError as error:
        raise ClusterError(str(error)) from error


def folder_on_cluster(out: str | None, spec: "Spec") -> str:
    """Returns the results folder as an argument for the shell on the cluster.

    Raises `UsageError` for a relative path, and for a URI with an unknown scheme.
    """
    if out is None:
        # The shell on the cluster expands this; with `:?` it fails with the text where the variable is not set.
        return f'"${{PRUNEYARD_OUT:?{NO_FOLDER}}}/{spec.name}"'
    if not out.startswith("/") and "://" not in out:
        words = (
            "it must be an absolute path, or the URI of an object store, that every node of the cluster sees"
        )
        raise UsageError(f"--out {out}: {words}")
    if "://" in out and out.partition("://")[0] not in SCHEMES:
        known = " and ".join(f"{scheme}://" for scheme in SCHEMES)
        raise UsageError(f"--out {out}: is no storage that pruneyard knows; URIs may start with {known}")
    return shlex.quote(out)


def cache_arguments(cache: Location | None, cache_from: Sequence[Location]) -> str:
    """Returns the options of `run` on the cluster that name caches, with a space before each; empty without caches.

    Raises `UsageError` for a relative path, which the cluster would resolve in the folder of the job.
    """
    named = [("--cache", cache)] if cache is not None else []
    named += [("--cache-from", folder) for folder in cache_from]
    for option, folder in named:
        if isinstance(folder, Path) and not folder.is_absolute():
            rule = "it must be an absolute path, or the URI of an object store, that every node of the cluster sees"
            raise UsageError(f"{option} {folder}: {rule}")
    return "".join(f" {option} {shlex.quote(str(folder))}" for option, folder in named)


def submit(
    access: Access,
    server: JobServer,
    spec: "Spec",
    *,
    out: str | None,
    pin: str,
    python: str | None,
    caches: str = "",
) -> tuple[JobView, bool]:
    """Submits a spec; returns its job and whether the job is new. A study that already runs is not submitted again.

    A short job first checks the interpreter, the packages and the folder of the cluster. Raises `UsageError` with what is wrong,
    before anything is accepted.

    caches: further options of `run`, see `cache_arguments`.
    python: interpreter on the cluster; None to choose the first one that has the packages.
    """
    folder, code = folder_on_cluster(out, spec), code_of(spec)
    # The same jobs in the same folder give the same prefix, by which the server finds a study that already runs.
    identity = "\n".join([folder, *sorted(job.key for job in spec.jobs)])
    prefix = f"{spec.name}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"
    if (running := server.running(prefix)) is not None:
        return running, False
    # A driver of ours expects a cluster with tokens, unless it is told otherwise.
    mode = "" if asks_for_token(access) else "export RAY_AUTH_MODE=disabled; "
    known = {view.job_id for view in server.views()}
    with tempfile.TemporaryDirectory(prefix="pruneyard-") as scratch:
        write_bundle(Path(scratch), spec=spec.to_yaml(), code=code)
        chosen = shlex.quote(_checked_interpreter(server, Path(scratch), folder=folder, pin=pin, python=python))
        check = f"{chosen} -m pruneyard.cluster.pins {PINS} && " if pin != "none" else ""
        run = f'run {SPEC} --out {folder} --address "$RAY_ADDRESS"{caches}'
        view = server.submit(
            f"{mode}{check}exec {chosen} -m pruneyard {run}",
            prefix=prefix,
            folder=Path(scratch),
            metadata={"study": spec.name, "out": out or f"$PRUNEYARD_OUT/{spec.name}"},
        )
    note = Note(job_id=view.job_id, address=access.address, study=spec.name, out=view.metadata.get("out", ""))
    write_note(note)
    return view, view.job_id not in known


def code_of(spec: "Spec") -> dict[str, Path]:
    """Returns the files of the user's code that a spec needs, by path below the current folder, which the job's folder replaces.

    Raises `UsageError` for a file of a command that cannot be sent.
    """
    found: dict[str, Path] = {}
    for job in spec.jobs:
        try:
            found |= job.workload.files_to_copy() if hasattr(job.workload, "files_to_copy") else {}
        except ValueError as error:
            raise UsageError(f"command: {error}") from error
    for name in sorted({SPEC, PINS} & found.keys()):
        raise UsageError(f"command: needs {found[name]}, but the cluster keeps a file of its own as {name}; rename it")
    return {**files_to_copy(Path.cwd()), **found}


CHOSEN = "pruneyard-interpreter: "


def _checked_interpreter(server: JobServer, bundle: Path, *, folder: str, pin: str, python: str | None) -> str:
    """Returns the interpreter of the cluster that will run the study. Raises `UsageError` if none of the candidates can."""
    # On a cluster on this machine, or with the same image, our own interpreter is there too.
    candidates = [python] if python is not None else ["python", sys.executable, "python3"]
    flag = PRESENT if pin == "none" else ""
    command = f"""\
: {folder}
for python in {" ".join(map(shlex.quote, candidates))}; do
    found=$(command -v "$python") || {{ echo "$python: is not there"; continue; }}
    said=$("$found" -m pruneyard.cluster.pins {PINS} {flag} 2>&1) && {{ echo "{CHOSEN}$found"; exit 0; }}
    echo "$said" | sed "s|^|$found: |"
done
exit 2
"""
    view, log = server.check(command, folder=bundle)
    if view.never_ran:
        raise RefusedError(f"the cluster could not run a command: {view.message}")
    chosen = [line.removeprefix(CHOSEN) for line in log.splitlines() if line.startswith(CHOSEN)]
    if view.status == "SUCCEEDED" and chosen:
        return chosen[0]
    lines = [line.replace("pruneyard: ", "") for line in log.strip().splitlines()] or [view.message]
    advice = "give --python PATH, the interpreter that runs Ray there"
    raise UsageError("\n".join(["the cluster cannot run the study, so it was not submitted:", *lines[-MAX_LINES:], advice]))


def print_message(text: str) -> None:
    """Prints a message on stderr; stdout is for results."""
    click.echo(f"pruneyard: {text}", err=True)


def write_log(text: str) -> None:
    """Writes a part of a job's log unchanged to stdout."""
    sys.stdout.write(text)
    sys.stdout.flush()


def print_outcome(view: JobView) -> int:
    """Prints how a job ended; returns the exit code to pass on."""
    print_message(f"{view.job_id} {describe_outcome(view)}")
    # 127 is the shell's code for a command that it cannot find.
    if view.never_ran or view.exit_code == 127:
        print_message(view.message.splitlines()[-1] if view.message else "the cluster gave no reason")
    return view.code


def describe_outcome(view: JobView) -> str:
    """Returns `running` or `pending`, or how the job ended."""
    return OUTCOMES[view.code] if view.ended else view.status.lower()
