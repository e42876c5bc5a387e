"""One driver per folder, on a shared folder and in an object store: a live holder blocks, a crashed one is replaced."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from object_store import BUCKET, ObjectStore, environment_variables, start_proxy

from pruneyard.orchestrator.coordination import lease
from pruneyard.orchestrator.coordination.lease import hold_lease
from pruneyard.orchestrator.errors import UsageError
from pruneyard.reports.durable import write_durably
from pruneyard.reports.objects import ObjectPath

HOLDING_PROCESS = """
import sys, time
from pruneyard.orchestrator.coordination import lease
from pruneyard.reports.location import located
lease.RENEW_S = 0.3
with lease.hold_lease(located(sys.argv[1])) as held:
    held.when_lost = lambda text: print(text, flush=True)
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def fast_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortens the intervals at which leases are renewed and expire."""
    monkeypatch.setattr(lease, "RENEW_S", 0.3)
    monkeypatch.setattr(lease, "STALE_S", 3.0)
    monkeypatch.setattr(lease, "_POLL_S", 0.1)


@pytest.fixture(params=["shared folder", "object store"])
def shared_place(request: pytest.FixtureRequest, store: ObjectStore, tmp_path: Path) -> Any:
    """Returns a folder of results that several machines can reach."""
    return tmp_path if request.param == "shared folder" else ObjectPath(BUCKET, request.node.name)


@pytest.fixture
def holder(shared_place: Any, fast_leases: None) -> "Iterator[subprocess.Popen[str]]":
    """Yields a process that holds the lease as if on another machine: its locks and processes are not visible here."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING_PROCESS, str(shared_place)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            if isinstance(shared_place, Path):
                (shared_place / ".driver").unlink()  # its lock is on another file than ours from now on
            yield process
        finally:
            process.kill()


@pytest.fixture
def on_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes this process take itself for one of another machine."""
    monkeypatch.setattr(lease, "_kernel", lambda: "another")


def test_a_holder_on_another_machine_is_seen_to_live(
    shared_place: Any, holder: "subprocess.Popen[str]", on_another_machine: None
) -> None:
    started = time.monotonic()
    with pytest.raises(
        UsageError, match=rf"another pruneyard is running in this folder \(process {holder.pid} on "
    ):
        hold_lease(shared_place).__enter__()
    assert time.monotonic() - started < lease.STALE_S


def test_a_crashed_holder_on_another_machine_is_replaced_after_a_while_and_this_is_reported(
    shared_place: Any, holder: "subprocess.Popen[str]", on_another_machine: None, caplog: pytest.LogCaptureFixture
) -> None:
    holder.kill()
    holder.wait()
    started = time.monotonic()
    with hold_lease(shared_place) as held:
        assert lease.STALE_S <= time.monotonic() - started < 3 * lease.STALE_S
        assert held.lost is None
    assert f"{shared_place}: a driver was at work here (process {holder.pid} on " in caplog.text
    assert "waiting up to 3 s to see whether it still is" in caplog.text
    with hold_lease(shared_place):
        assert caplog.text.count("was at work here") == 1, "it waited for a lease that had been released"


def test_a_crashed_holder_on_this_machine_is_replaced_at_once(
    shared_place: Any, holder: "subprocess.Popen[str]", caplog: pytest.LogCaptureFixture
) -> None:
    holder.kill()
    holder.wait()
    with hold_lease(shared_place):
        assert caplog.text == ""


def test_a_holder_that_was_replaced_learns_of_it(
    shared_place: Any, holder: "subprocess.Popen[str]", on_another_machine: None
) -> None:
    other_holder = lease.LeaseHolder(token="other")
    record = shared_place / ".driver.json"
    for _ in range(50):  # the holder keeps renewing it
        if isinstance(record, Path):
            write_durably(record, other_holder.content())
            break
        if record.put_if(other_holder.content(), tag=record.read_tagged()[1]) is not None:
            break
    assert holder.stdout is not None
    assert holder.stdout.readline().startswith(
        "another pruneyard has taken the folder of results over (process "
    )


@pytest.mark.slow
def test_two_that_take_over_at_once_do_not_both_get_it(
    store: ObjectStore, fast_leases: None, folder: ObjectPath
) -> None:
    (folder / ".driver.json").write_bytes(lease.LeaseHolder(kernel="gone", token="dead").content())
    candidates = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from pruneyard.orchestrator.coordination import lease\nlease.STALE_S = 3.0\n" + HOLDING_PROCESS,
                str(folder),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(3)
    ]
    try:
        deadline = time.monotonic() + 120
        while sum(candidate.poll() is not None for candidate in candidates) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        (winner,) = [candidate for candidate in candidates if candidate.poll() is None]
        assert winner.stdout is not None
        assert winner.stdout.readline() == "held\n"
    finally:
        for candidate in candidates:
            candidate.kill()
            candidate.wait()
            if candidate.stdout is not None:
                candidate.stdout.close()


def test_a_holder_in_a_container_whose_processes_are_not_seen_here_is_not_taken_for_dead(
    folder: ObjectPath, fast_leases: None
) -> None:
    command = ["unshare", "--pid", "--fork", "--kill-child", "--", sys.executable, "-c", HOLDING_PROCESS, str(folder)]
    if subprocess.run([*command[:5], "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user cannot create a process namespace")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            with pytest.raises(
                UsageError, match=r"another pruneyard is running in this folder \(process 1 on "
            ):
                hold_lease(folder).__enter__()
        finally:
            process.kill()


def test_a_lease_that_this_process_could_not_let_go_is_no_obstacle_to_its_next_call(
    store: ObjectStore, folder: ObjectPath, caplog: pytest.LogCaptureFixture
) -> None:
    with start_proxy(store) as proxy, environment_variables(store.env_for_port(proxy.port)):
        with hold_lease(folder):
            with pytest.raises(UsageError, match="another pruneyard is running"):
                hold_lease(folder).__enter__()
            proxy.cut()
        assert "the lease on the folder of results stays behind" in caplog.text
        proxy.restore()
        started = time.monotonic()
        with hold_lease(folder):
            assert time.monotonic() - started < lease.STALE_S / 2
