"""Studies as jobs of a real Ray head with a token: submitted, followed, waited for, stopped, killed and resumed."""

import contextlib
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest
import yaml_spec
from comparing import assert_same_numbers
from driving import StepDelay, driving
from object_store import BUCKET, ObjectStore, environment_variables
from ray_head import Head, ray_head
from watching import checkpoints, completed, count, runs_in_progress
from yaml_spec import SHORT_METHODS

from pruneyard.cluster.access import Access
from pruneyard.cluster.jobs import job_server
from pruneyard.orchestrator.artifacts.run_cache import RunCache
from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store

WITHIN_S = 600.0  # for what takes seconds on an idle machine
PYTHON = ("--python", sys.executable)  # the interpreter of the cluster is not on its path

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def step_delay(tmp_path_factory: pytest.TempPathFactory) -> StepDelay:
    return StepDelay(tmp_path_factory.mktemp("step-delay"), 0)


@pytest.fixture(scope="module")
def job_head(env: dict[str, str], step_delay: StepDelay, object_server: ObjectStore) -> Iterator[Head]:
    """Yields a head with the credentials of an object store, which its users do not have; one trial runs at a time."""
    with ray_head(env | step_delay.env | object_server.env, num_cpus=1) as started:
        yield started


@pytest.fixture
def user_env(env: dict[str, str], job_head: Head, tmp_path: Path) -> dict[str, str]:
    """Returns the user's environment, with the token and with addresses of other clusters, which must not matter."""
    return {
        **env,
        "RAY_AUTH_TOKEN": job_head.token,
        "RAY_ADDRESS": "127.0.0.1:1",
        "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:1",
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }


def pruneyard(
    *arguments: str | Path, env: dict[str, str], folder: Path, code: int = 0, fresh: bool = False
) -> tuple[str, str]:
    """Runs a command that must exit with `code`; returns its stdout and stderr."""
    with driving(*arguments, folder=folder, env=env, fresh=fresh) as driver:
        assert driver.wait(within_s=WITHIN_S) == code, driver.output()
        assert "Traceback" not in driver.stderr, driver.stderr
        assert env.get("RAY_AUTH_TOKEN", "none was given") not in driver.stdout + driver.stderr
        return driver.stdout, driver.stderr


def test_a_submitted_study_that_is_stopped_resumed_and_killed_loses_nothing(
    short_spec: Path,
    short_reference: Path,
    job_head: Head,
    user_env: dict[str, str],
    step_delay: StepDelay,
    tmp_path: Path,
) -> None:
    out = tmp_path / "shared" / "out"
    step_delay.set(2)  # so that it still runs when a busy machine has made two more calls
    arguments = ("submit", short_spec, "--address", job_head.url, "--out", out, *PYTHON)
    job, output = pruneyard(*arguments, env=user_env, folder=tmp_path)
    job = job.strip()
    assert job.endswith("-1")
    assert f"5 jobs, submitted to {job_head.url} with a token" in output

    again, output = pruneyard(*arguments, env=user_env, folder=tmp_path)
    assert again.strip() == job, "the same study runs twice at a time"
    assert "is under way already" in output
    _, output = pruneyard("wait", job, "--timeout", "1", env=user_env, folder=tmp_path, code=124)
    assert f"{job} is still" in output

    step_delay.set(0.15)
    deadline = time.monotonic() + WITHIN_S
    while not (completed(out) and runs_in_progress(out)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    step_delay.set(2)
    _, output = pruneyard("stop", job, env=user_env, folder=tmp_path, code=3)
    assert f"{job} stopped" in output
    assert count(out, Status.INTERRUPTED) >= 1
    assert count(out, Status.FAILED) == 0
    assert RunFolder(out).report.exists()
    for key in Results(out).runs().query("status == 'INTERRUPTED'")["run_key"]:
        assert list(RunFolder(out).checkpoints(key).glob("step-*"))
    finished = completed(out)
    for verb in ("wait", "stop", "kill"):
        pruneyard(verb, job, env=user_env, folder=tmp_path, code=3)

    before = checkpoints(out)
    second, _ = pruneyard(*arguments, env=user_env, folder=tmp_path)
    second = second.strip()
    assert second.endswith("-2")
    deadline = time.monotonic() + WITHIN_S
    while not runs_in_progress(out, exclude=before):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with job_server(Access(address=job_head.url, token=job_head.token)) as server:
        driver = psutil.Process(server.view(second).driver_pid)
    started = time.monotonic()
    pruneyard("kill", second, env=user_env, folder=tmp_path, code=3)
    print(f"killed in {time.monotonic() - started:.1f} s")
    assert not driver.is_running() or driver.status() == psutil.STATUS_ZOMBIE

    step_delay.set(0)
    shown, output = pruneyard(*arguments, "--follow", env=user_env, folder=tmp_path)
    assert "-3 finished" in output
    assert f"report: {out}/report.html" in shown
    assert_same_numbers(out, short_reference)
    attempts = Store(RunFolder(out)).runs(latest=False).to_pandas()
    for key, attempt in finished.items():
        assert list(attempts[attempts["run_key"] == key]["attempt"]) == [attempt], "a finished job ran again"
    assert count(out, Status.COMPLETED) == len(SHORT_METHODS)

    listed, _ = pruneyard("status", "--address", job_head.url, env=user_env, folder=tmp_path)
    states = {line.split()[0]: line.split()[1] for line in listed.splitlines()[1:]}
    stem = job.removesuffix("-1")
    assert states == {job: "stopped", second: "stopped", f"{stem}-3": "finished"}, "helpers are not listed"
    status, _ = pruneyard("status", f"{stem}-3", env=user_env, folder=tmp_path)
    assert f"report: {out}/report.html" in status
    log, _ = pruneyard("logs", f"{stem}-3", env=user_env, folder=tmp_path)
    assert log == shown.partition("\n")[2], "--follow shows the log, once and whole, after the job's name"

    state_files = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert len(state_files) == 3
    assert all(job_head.token not in path.read_text() for path in state_files)
    assert all(path.stat().st_mode & 0o077 == 0 for path in state_files)
    with job_server(Access(address=job_head.url, token=job_head.token)) as server:
        assert all(job_head.token not in repr(view) for view in server.views())


def test_a_submitted_study_keeps_its_results_in_an_object_store(
    short_spec: Path,
    short_reference: Path,
    job_head: Head,
    object_server: ObjectStore,
    user_env: dict[str, str],
    step_delay: StepDelay,
    tmp_path: Path,
) -> None:
    step_delay.set(0)
    out = f"s3://{BUCKET}/submitted"
    arguments = ("submit", short_spec, "--address", job_head.url, "--out", out, *PYTHON, "--follow")
    shown, output = pruneyard(*arguments, env=user_env, folder=tmp_path)
    assert "-1 finished" in output
    assert f"report: {out}/report.html" in shown
    with environment_variables(object_server.env):
        assert_same_numbers(out, short_reference)
        assert Store(RunFolder(out)).runs(latest=False).num_rows == len(SHORT_METHODS)


def test_a_submitted_study_adds_to_a_cache_and_another_computes_nothing_again(
    short_spec: Path, short_reference: Path, job_head: Head, user_env: dict[str, str], step_delay: StepDelay, tmp_path: Path
) -> None:
    """The second one only takes runs: its runs began and ended when those of the first did, and it may not write to the cache."""
    step_delay.set(0)
    shared = tmp_path / "shared"
    cache = shared / "cache"
    arguments = ("submit", short_spec, "--address", job_head.url, *PYTHON, "--follow")
    _, output = pruneyard(*arguments, "--out", shared / "first", "--cache", cache, env=user_env, folder=tmp_path)
    assert "-1 finished" in output
    computed = Results(shared / "first").runs().set_index("run_key")
    assert RunCache(cache).run_keys() == set(computed.index)
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}

    _, output = pruneyard(*arguments, "--out", shared / "second", "--cache-from", cache, env=user_env, folder=tmp_path)
    assert "-1 finished" in output
    taken = Results(shared / "second").runs().set_index("run_key")
    assert set(taken.index) == set(computed.index)
    for column in ("started_at", "ended_at", "train_s"):
        assert dict(taken[column]) == dict(computed[column]), f"{column}: a finished job ran again"
    assert_same_numbers(shared / "second", short_reference)
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()} == before


def test_a_study_submitted_next_to_modules_of_the_user_imports_none_of_them(
    wheel_env: dict[str, str], job_head: Head, user_env: dict[str, str], step_delay: StepDelay, hostile: Path
) -> None:
    step_delay.set(0)
    tables = yaml_spec.spec_of([{"name": "dense"}], name="beside", schedule={"name": "cosine"})
    spec = yaml_spec.write(hostile / "spec.yaml", {**tables, "budget": {"steps": 3, "batch_size": 32}})
    arguments = ("submit", spec, "--address", job_head.url, "--out", hostile / "out", *PYTHON, "--follow")
    env = {**user_env, "PYTHONPATH": wheel_env["PYTHONPATH"]}
    _, output = pruneyard(*arguments, env=env, folder=hostile, fresh=True)
    assert "-1 finished" in output
    assert list(Results(hostile / "out").runs()["status"]) == ["COMPLETED"]


SIZES = "WIDTH = 12\n"
NETS = """
from torch import nn

from sizes import WIDTH


class Net(nn.Module):
    def __init__(self, in_features, num_classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(in_features, WIDTH), nn.ReLU(), nn.Linear(WIDTH, num_classes))

    def forward(self, images):
        return self.layers(images)
"""
FUNCTION = """
from sizes import WIDTH


def train(context, lr):
    for step in range(3):
        context.report(step=step + 1, height=WIDTH * lr * (step + 1))
"""


def test_networks_and_functions_of_files_are_shipped_with_what_they_import(
    job_head: Head, user_env: dict[str, str], step_delay: StepDelay, tmp_path: Path
) -> None:
    """The files are gone from their folder before the study begins."""
    step_delay.set(0)
    code, out = tmp_path / "code", tmp_path / "out"
    code.mkdir()
    files = {"sizes.py": SIZES, "nets.py": NETS, "work.py": FUNCTION}
    for name, text in files.items():
        (code / name).write_text(text)
    tables = yaml_spec.spec_of([{"name": "static", "density": 0.5}], name="net", schedule={"name": "cosine"})
    network = {key: value for key, value in tables.items() if key != "name"}
    network |= {"model": "nets.py:Net", "budget": {"steps": 3, "batch_size": 32}}
    function = {"kind": "function", "function": "work.py:train", "arguments": {"lr": 0.5}}
    spec = yaml_spec.write(code / "spec.yaml", {"name": "own", "stages": {"net": network, "work": function}})
    job, _ = pruneyard("submit", spec, "--address", job_head.url, "--out", out, *PYTHON, env=user_env, folder=code)
    for name in files:
        (code / name).unlink()
    pruneyard("wait", job.strip(), "--timeout", str(WITHIN_S), env=user_env, folder=tmp_path)
    results = Results(out)
    assert list(results.runs()["status"]) == ["COMPLETED", "COMPLETED"], list(results.runs()["error"])
    heights = results.metrics().query("name == 'height'").sort_values("step")["value"]
    assert list(heights) == [6.0, 12.0, 18.0]


@contextlib.contextmanager
def cutting_proxy(url: str, *, after_s: float) -> Iterator[str]:
    """Forwards bytes and cuts every connection that is older than `after_s`, as middleboxes do."""
    target = ("127.0.0.1", int(url.rpartition(":")[2]))
    closed = threading.Event()

    def forward(client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection(target) as upstream:
            deadline = time.monotonic() + after_s
            while time.monotonic() < deadline and not closed.is_set():
                for source in select.select([client, upstream], [], [], 0.05)[0]:
                    content = source.recv(65536)
                    if not content:
                        return
                    (upstream if source is client else client).sendall(content)

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        threads = []

        def serve() -> None:
            while not closed.is_set():
                with contextlib.suppress(TimeoutError):
                    thread = threading.Thread(target=forward, args=(server.accept()[0],), daemon=True)
                    thread.start()
                    threads.append(thread)

        accepting = threading.Thread(target=serve, daemon=True)
        accepting.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            closed.set()
            for thread in (accepting, *threads):
                thread.join()


def test_following_a_log_resumes_after_a_broken_connection(job_head: Head) -> None:
    lines = [f"line {number}" for number in range(40)]
    command = f"for i in $(seq 0 {len(lines) - 1}); do echo line $i; sleep 0.25; done; exit 3"
    pieces: list[str] = []
    folder = Path(__file__).parent / "foreign_plugins"
    with job_server(Access(address=job_head.url, token=job_head.token)) as server:
        view = server.submit(command, prefix="lines", folder=folder, metadata={})
    with (
        cutting_proxy(job_head.url, after_s=5) as url,
        job_server(Access(address=url, token=job_head.token)) as server,
    ):
        ended = server.follow(view.job_id, pieces.append)
    with job_server(Access(address=job_head.url, token=job_head.token)) as server:
        log = server.logs(view.job_id)
    assert "".join(pieces) == log
    shown = "".join(pieces).splitlines()
    assert [line for line in shown if line.startswith("line ")] == lines
    assert (ended.status, ended.exit_code, ended.code) == ("FAILED", 3, 3)


def status_and_code(job_head: Head, command: str) -> tuple[str, int]:
    with job_server(Access(address=job_head.url, token=job_head.token)) as server:
        folder = Path(__file__).parent / "foreign_plugins"
        view = server.wait(server.submit(command, prefix="exits", folder=folder, metadata={}).job_id)
        return view.status, view.code


def test_the_exit_code_of_the_command_is_passed_on(job_head: Head) -> None:
    assert status_and_code(job_head, "exit 0") == ("SUCCEEDED", 0)
    assert status_and_code(job_head, "exit 2") == ("FAILED", 2)
    assert status_and_code(job_head, "kill -9 $$") == ("FAILED", 1)
    assert status_and_code(job_head, "no-such-python run") == ("FAILED", 4)


def test_other_versions_on_the_cluster_are_refused_before_anything_runs(job_head: Head, tmp_path: Path) -> None:
    (tmp_path / "pins.json").write_text('{"python": "3.11.99", "numpy": "0.1"}')
    result = subprocess.run(
        [sys.executable, "-m", "pruneyard.cluster.pins", "pins.json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "numpy is" in result.stderr
    assert "the study was submitted with 0.1" in result.stderr


@pytest.mark.parametrize(
    ("address", "token", "code", "message"),
    [
        ("", "wrong" * 8, 4, "no token, or a wrong one, for the job server at"),
        ("", None, 4, "no token, or a wrong one, for the job server at"),
        ("http://127.0.0.1:1", "x" * 64, 4, "no job server answers at http://127.0.0.1:1"),
        ("http://192.0.2.1:8265", None, 2, "not without a token"),
        ("ray://127.0.0.1:10001", "x" * 64, 2, "is no address to submit to"),
        ("http://me:secret@127.0.0.1:8265", "x" * 64, 2, "must not hold a secret"),
    ],
)
def test_what_cannot_be_reached_or_must_not_be_is_said_at_once(
    job_head: Head, user_env: dict[str, str], tmp_path: Path, address: str, token: str | None, code: int, message: str
) -> None:
    env = {**user_env, "HOME": str(tmp_path)}
    del env["RAY_AUTH_TOKEN"]
    if token is not None:
        env["RAY_AUTH_TOKEN"] = token
    started = time.monotonic()
    out, output = pruneyard("status", "--address", address or job_head.url, env=env, folder=tmp_path, code=code)
    assert (out, message in output, "secret@" in output) == ("", True, False), output
    assert len(output.splitlines()) == 1
    assert time.monotonic() - started < 90, "a busy machine may need long to import Ray, but not minutes"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("submit", "quickstart", "--out", "out"), "--out out: it must be an absolute path"),
        (("submit", "quickstart", "--set", "method.densty=1"), "densty"),
        (("wait", "no-such-job"), "no-such-job: the cluster has no such job; it has"),
        (("logs", "-f", "no-such-job"), "no-such-job: the cluster has no such job"),
    ],
)
def test_bad_usage_is_said_with_what_there_is(
    job_head: Head, user_env: dict[str, str], tmp_path: Path, arguments: Sequence[str], message: str
) -> None:
    _, output = pruneyard(*arguments, "--address", job_head.url, env=user_env, folder=tmp_path, code=2)
    assert message in output
