"""A death among watched processes is reported at once and once; that of a dispensable one is a warning."""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

from pruneyard.cluster.ray_processes import RayProcess, processes_of_node, watch_processes

SLEEP = "import time; time.sleep(600)"
WITHIN_S = 60.0  # on a busy machine; a report comes at once on a quiet one
PARENT = f"""
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "{SLEEP}", "ray::DashboardAgent"])
subprocess.Popen([sys.executable, "-c", "{SLEEP}", "/ray/_private/runtime_env/agent/main.py"])
print("ready", flush=True)
{SLEEP}
"""


@pytest.fixture
def sleeping() -> Iterator[list["subprocess.Popen[bytes]"]]:
    processes = [subprocess.Popen([sys.executable, "-c", SLEEP]) for _ in range(2)]
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def test_the_first_vital_death_alone_is_reported(sleeping: list["subprocess.Popen[bytes]"]) -> None:
    messages, was_reported = [], threading.Event()

    def on_death(message: str) -> None:
        messages.append(message)
        was_reported.set()

    names = ("raylet", "head (GCS)")
    watched = [RayProcess(name=name, pid=p.pid, is_vital=True) for name, p in zip(names, sleeping, strict=True)]
    with watch_processes(lambda: watched, on_death) as watch:
        watch.set_started()
        assert not was_reported.wait(0.1)
        for process in sleeping:
            process.kill()
        assert was_reported.wait(WITHIN_S)
    assert len(messages) == 1
    assert any(f"(process {process.pid}, killed by SIGKILL)" in messages[0] for process in sleeping)


def test_what_is_killed_while_ray_starts_is_reported_and_what_ends_by_itself_is_not(
    sleeping: list["subprocess.Popen[bytes]"],
) -> None:
    """Ray says itself why it could not start."""
    messages: list[str] = []
    ending = subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])
    by_itself, killed = (RayProcess(name="raylet", pid=pid, is_vital=True) for pid in (ending.pid, sleeping[0].pid))
    with watch_processes(lambda: [by_itself, killed], messages.append):
        ending.wait()
        time.sleep(0.3)
        assert not messages
        sleeping[0].kill()
        deadline = time.monotonic() + WITHIN_S
        while not messages:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert messages[0].startswith(f"Ray's raylet on this node died while Ray started (process {killed.pid}, killed by SIGKILL)")


def test_a_dispensable_death_is_a_warning(
    sleeping: list["subprocess.Popen[bytes]"], caplog: pytest.LogCaptureFixture
) -> None:
    messages: list[str] = []
    log_monitor = RayProcess(name="log monitor", pid=sleeping[0].pid, is_vital=False)
    with watch_processes(lambda: [log_monitor], messages.append), caplog.at_level(logging.WARNING):
        sleeping[0].kill()
        deadline = time.monotonic() + WITHIN_S
        while "log monitor died" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert not messages


def test_leaving_the_block_reports_nothing(sleeping: list["subprocess.Popen[bytes]"]) -> None:
    messages: list[str] = []
    raylet = RayProcess(name="raylet", pid=sleeping[0].pid, is_vital=True)
    with watch_processes(lambda: [raylet], messages.append):
        pass
    sleeping[0].kill()
    time.sleep(0.05)
    assert not messages


def test_the_raylet_of_a_node_is_found_with_its_agents_and_no_other() -> None:
    raylets = [
        subprocess.Popen([sys.executable, "-c", PARENT, f"--raylet_socket_name=/s/{name}"], stdout=subprocess.PIPE)
        for name in ("ours", "theirs")
    ]
    try:
        for raylet in raylets:
            assert raylet.stdout is not None
            assert raylet.stdout.readline() == b"ready\n"
        found = processes_of_node("/s/ours")
        assert sorted(process.name for process in found) == ["dashboard agent", "raylet", "runtime environment agent"]
        assert all(process.is_vital for process in found)
        assert [process.pid for process in found if process.name == "raylet"] == [raylets[0].pid]
    finally:
        for raylet in raylets:
            for child in psutil.Process(raylet.pid).children():
                child.kill()
            raylet.kill()
            raylet.wait()
            assert raylet.stdout is not None
            raylet.stdout.close()
