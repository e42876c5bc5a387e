"""Studies in an object store: the numbers of a local folder after any crash, and clear messages for failures."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import pytest
import yaml_spec
from click.testing import CliRunner
from comparing import assert_same_numbers
from driving import StepDelay, driving
from object_store import BUCKET, ObjectStore, environment_variables, start_proxy
from shared_head import SharedHead

from pruneyard.orchestrator.cli import cli
from pruneyard.orchestrator.coordination.journal import Journal
from pruneyard.orchestrator.coordination.stop_request import StudyStoppedError
from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.progress.monitor import Monitor
from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.objects import ObjectPath
from pruneyard.reports.storage import StorageError
from pruneyard.reports.store import Store

SPEC = yaml_spec.spec_of(
    [{"name": "dense"}, {"name": "rigl", "density": 0.2, "schedule": {"every": 5}}],
    name="two",
    schedule={"name": "cosine"},
    budget={"epochs": 2, "batch_size": 64, "checkpoint_every_s": 0.2},
)
BOTH_COMPLETED = [("dense", 1, "COMPLETED"), ("rigl", 1, "COMPLETED")]
ROOT = f"s3://{BUCKET}"


@pytest.fixture(scope="module")
def local_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs the spec into a folder of this machine; returns its results."""
    folder = tmp_path_factory.mktemp("local") / "out"
    run(SPEC, folder, local=True)
    return folder


@pytest.fixture(scope="module")
def finished(store: ObjectStore) -> str:
    uri = f"{ROOT}/studies/finished"
    assert run(SPEC, uri, local=True).exit_code == 0
    return uri


def attempts(uri: str) -> list[tuple[str, int, str]]:
    rows = Store(RunFolder(uri)).runs(latest=False).to_pylist()
    return sorted((row["method"], row["attempt"], row["status"]) for row in rows)


def names(uri: str) -> set[str]:
    return {path.name for path in ObjectPath.of(uri).iterdir()}


class ActionDisplay:
    """A display that calls a function once, when a number of jobs are done and another one runs."""

    def __init__(self, action: Callable[[], None], *, done: int = 0) -> None:
        self._action, self._done, self._called = action, done, False

    def show(self, monitor: Monitor) -> None:
        """Calls the function when it is due."""
        if monitor.running and monitor.done >= self._done and not self._called:
            self._called = True
            self._action()


def test_a_study_in_an_object_store_has_the_numbers_of_a_local_one(finished: str, local_results: Path) -> None:
    assert_same_numbers(finished, local_results)
    assert attempts(finished) == BOTH_COMPLETED
    assert "a-secret-of-tests" not in RunFolder(finished).spec.read_text()
    assert names(finished) == {"artifacts", "plan.json", "results", "spec.yaml"}, (
        "a control file or a lease is left"
    )


@pytest.mark.slow
def test_every_verb_about_a_folder_takes_the_uri(finished: str, tmp_path: Path) -> None:
    spec = yaml_spec.write(tmp_path / "spec.yaml", SPEC)
    outputs = {}
    for arguments in (
        ["plan", str(spec), "--out", finished],
        ["run", str(spec), "--out", finished, "--local", "--json"],
        ["resume", finished, "--local"],
        ["retry", finished, "--local"],
        ["report", finished, "--out", str(tmp_path / "page.html")],
        ["export", finished, "--table", "runs"],
        ["explain", str(spec), "--out", finished],
    ):
        result = CliRunner().invoke(cli, arguments, standalone_mode=False)
        assert result.exception is None, result
        assert not result.return_value, result.output
        outputs[arguments[0]] = result.stdout
    assert "2 completed" in outputs["plan"]
    assert json.loads(outputs["run"])["report"] == f"{finished}/report.html"
    assert f"report: {finished}/report.html" in outputs["resume"]
    assert outputs["export"].count("COMPLETED") == 2
    assert outputs["explain"].count("it will not run again") == 2
    assert "rigl" in (tmp_path / "page.html").read_text()
    assert attempts(finished) == BOTH_COMPLETED, "a finished job ran again"


def test_a_uri_of_no_storage_is_refused_with_what_there_is() -> None:
    with pytest.raises(
        click.BadParameter, match="gs:// is no storage that pruneyard knows; give a path, file:// or s3://"
    ):
        CliRunner().invoke(cli, ["report", "gs://bucket/a"], standalone_mode=False, catch_exceptions=False)


def test_a_chain_consumes_runs_in_an_object_store(finished: str, store: ObjectStore, tmp_path: Path) -> None:
    spec = {
        "name": "judged",
        "kind": "calibrate",
        "input": {"from": finished},
        "method": {"name": "temperature"},
    }
    uri = f"{ROOT}/judged"
    assert run(spec, uri, local=True).exit_code == 0
    assert sorted(Results(uri).runs()["parent_key"]) == sorted(Results(finished).runs()["run_key"])
    found = Results(uri).metrics()
    assert {"nll", "ece"} <= set(found[found["split"] == "test"]["name"])


def test_data_distilled_by_a_run_in_an_object_store_are_read(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRUNEYARD_CACHE", str(tmp_path / "cache"))
    spec = {
        "name": "chain",
        "stages": {
            "choose": {
                "kind": "distill",
                "data": {"name": "digits", "max_train": 200, "max_test": 50},
                "model": {"name": "mlp", "width": 8, "depth": 1},
                "method": {"name": "random", "ipc": 2},
                "evaluation": {"networks": 1, "epochs": 2},
            },
            "train": {
                "kind": "sparse",
                "data": {"from": "choose"},
                "model": {"name": "mlp", "width": 8, "depth": 1},
                "method": {"name": "dense"},
                "budget": {"steps": 3, "batch_size": 8},
            },
        },
    }
    uri = f"{ROOT}/chain"
    assert run(spec, uri, local=True).exit_code == 0
    assert list(Results(uri).runs()["status"]) == ["COMPLETED", "COMPLETED"]


@pytest.mark.slow
def test_a_driver_that_is_killed_is_repaired_by_the_same_command(
    store: ObjectStore, local_results: Path, env: dict[str, str], tmp_path: Path
) -> None:
    uri, step_delay = f"{ROOT}/killed", StepDelay(tmp_path, 0.1)
    spec = yaml_spec.write(tmp_path / "spec.yaml", {**SPEC, "schedule": {"name": "slow_cosine"}})
    arguments = ("run", spec, "--out", uri, "--local")

    def is_training_after_the_first() -> bool:
        statuses = Store(RunFolder(uri)).statuses()
        if statuses:
            step_delay.set(0.5)
        complete = [path for path in ObjectPath.of(uri).files() if path.name == "meta.json"]
        return bool(statuses) and bool({path.parent.parent.parent.name for path in complete} - statuses.keys())

    with driving(*arguments, folder=tmp_path, env=env | store.env | step_delay.env) as driver:
        driver.wait_until(is_training_after_the_first, within_s=300)
        driver.send_signal(signal.SIGKILL)
        driver.wait(within_s=10)
    before = {row["run_key"]: row["started_at"] for row in Store(RunFolder(uri)).runs().to_pylist()}
    assert len(before) == 1
    assert ".driver.json" in names(uri), "its lease is gone"
    step_delay.set(0)
    with driving(*arguments, folder=tmp_path, env=env | store.env | step_delay.env) as driver:
        assert driver.wait(within_s=300) == 0, driver.output()
        assert "was at work here" not in driver.stderr, "the driver waited for the lease of a process that has ended"
    uninterrupted = run({**SPEC, "schedule": {"name": "cosine"}}, local_results, local=True)
    found, expected = (r.metrics().query("name == 'nll'")["value"] for r in (Results(uri), uninterrupted))
    assert sorted(found) == sorted(expected), "the numbers differ from those of an uninterrupted run"
    assert attempts(uri) == BOTH_COMPLETED
    after = {row["run_key"]: row["started_at"] for row in Store(RunFolder(uri)).runs().to_pylist()}
    assert before.items() <= after.items(), "a finished job ran again"


HOLDING_PROCESS = """
import sys, time
from pruneyard.orchestrator.coordination.lease import hold_lease
from pruneyard.reports.location import located
with hold_lease(located(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_driver_is_refused_while_the_first_lives_and_takes_over_when_it_is_dead(
    store: ObjectStore, tmp_path: Path
) -> None:
    uri = f"{ROOT}/held"
    with subprocess.Popen([sys.executable, "-c", HOLDING_PROCESS, uri], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            message = rf"{uri}: another pruneyard is running in this folder \(process {holder.pid} on "
            with pytest.raises(ValueError, match=message):
                run(SPEC, uri, local=True)
            assert names(uri) == {".driver.json"}, "the second driver wrote something"
        finally:
            holder.kill()
    assert run(SPEC, uri, local=True).exit_code == 0
    assert attempts(uri) == BOTH_COMPLETED


@pytest.mark.parametrize(
    ("variables", "uri", "message"),
    [
        ({}, "s3://no-such-bucket/a", "there is no bucket no-such-bucket; create it, or fix the URI"),
        (
            {"AWS_PROFILE": "nobody"},
            f"{ROOT}/a",
            "no credentials are found (ProfileNotFound); set AWS_ACCESS_KEY_ID",
        ),
        (
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
            f"{ROOT}/a",
            "the store cannot be reached (EndpointConnectionError)",
        ),
    ],
    ids=["no bucket", "no credentials", "no server"],
)
@pytest.mark.parametrize("verb", ["run", "report"])
def test_a_store_that_cannot_be_used_is_said_before_anything_starts(
    variables: dict[str, str],
    uri: str,
    message: str,
    verb: str,
    store: ObjectStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = yaml_spec.write(tmp_path / "spec.yaml", SPEC)
    arguments = ["run", str(spec), "--local", "--out", uri] if verb == "run" else ["report", uri]
    with environment_variables(variables):
        with pytest.raises(StorageError) as caught:
            CliRunner().invoke(cli, arguments, standalone_mode=False, catch_exceptions=False)
        monkeypatch.setattr(sys, "argv", ["pruneyard", *arguments])
    error = str(caught.value)
    assert error.startswith(uri)
    assert message in error
    assert "\n" not in error
    assert store.env["AWS_SECRET_ACCESS_KEY"] not in error
    assert list(ObjectPath.of(f"{ROOT}/a").files()) == []


@pytest.mark.slow
def test_the_command_reports_it_in_one_line_and_exits_with_2(store: ObjectStore, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from pruneyard.orchestrator.cli import main; main()",
        "report",
        "s3://no-such-bucket/a",
    ]
    completed = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert completed.returncode == 2
    assert (
        completed.stderr
        == "pruneyard: s3://no-such-bucket/a: there is no bucket no-such-bucket; create it, or fix the URI\n"
    )


def test_a_lost_store_stops_the_study_and_a_second_call_completes_it(
    store: ObjectStore, local_results: Path
) -> None:
    uri = f"{ROOT}/cut"
    with start_proxy(store) as proxy, environment_variables(store.env_for_port(proxy.port)):
        with pytest.raises(StudyStoppedError) as caught:
            run(SPEC, uri, local=True, display=ActionDisplay(proxy.cut, done=1))
        assert str(caught.value).startswith(f"{uri}/")
        assert "the store cannot be reached" in str(caught.value)
        assert "give the same command again: what is finished is kept" in str(caught.value)
        proxy.restore()
        assert [row[1:] for row in attempts(uri)] == [(1, "COMPLETED")], "a job was blamed for its storage"
        assert run(SPEC, uri, local=True).exit_code == 0
    assert_same_numbers(uri, local_results)
    assert attempts(uri) == BOTH_COMPLETED


@pytest.mark.slow
def test_a_slow_store_costs_time_and_nothing_else(store: ObjectStore, local_results: Path) -> None:
    seconds = {}
    with start_proxy(store) as proxy, environment_variables(store.env_for_port(proxy.port)):
        for name, delay_s in (("quick", 0.0), ("slow", 0.3)):
            slow_down, started = partial(setattr, proxy, "delay_s", delay_s), time.monotonic()
            assert run(SPEC, f"{ROOT}/{name}", local=True, display=ActionDisplay(slow_down)).exit_code == 0
            seconds[name] = time.monotonic() - started
            assert_same_numbers(f"{ROOT}/{name}", local_results)
            assert attempts(f"{ROOT}/{name}") == BOTH_COMPLETED
    print(f"{seconds}, {proxy.num_delayed} pieces were delayed")
    assert proxy.num_delayed >= 20
    assert seconds["slow"] - seconds["quick"] > 10 * proxy.delay_s


def test_without_boto3_the_extra_to_install_is_named(tmp_path: Path) -> None:
    (tmp_path / "boto3.py").write_text("")  # boto3 is looked up, not imported
    code = (
        "import importlib.util as util; found = util.find_spec\n"
        "util.find_spec = lambda name, package=None: None if name == 'boto3' else found(name, package)\n"
        "from pruneyard.reports.location import located; located('s3://bucket/a')"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "object stores need boto3; install it with: pip install 'pruneyard[s3]'" in completed.stderr


@pytest.mark.ray
@pytest.mark.slow
def test_a_study_on_ray_writes_to_an_object_store_however_slow(
    store: ObjectStore, local_results: Path, head: SharedHead, tmp_path: Path
) -> None:
    uri = f"{ROOT}/ray"
    spec = yaml_spec.write(tmp_path / "spec.yaml", SPEC)
    with start_proxy(store) as proxy:
        proxy.delay_s = 0.1
        head.run("run", spec, "--out", uri, folder=tmp_path, report=True, **store.env_for_port(proxy.port))
    assert proxy.num_delayed >= 10 * len(BOTH_COMPLETED), "the trials did not write through the slow proxy"
    assert_same_numbers(uri, local_results)
    assert attempts(uri) == BOTH_COMPLETED
    assert Results(uri).exit_code == 0
    assert names(uri) == {"artifacts", "plan.json", "report.html", "results", "spec.yaml"}


@pytest.mark.ray
@pytest.mark.slow
def test_the_doctor_tries_the_store_from_every_node(store: ObjectStore, head: SharedHead, tmp_path: Path) -> None:
    with head.driving("doctor", "--out", f"{ROOT}/tried", folder=tmp_path, **store.env) as driver:
        driver.wait(within_s=300)
    assert f"ok    storage here: {ROOT}/tried is writable and heeds conditions" in driver.stdout
    assert f"ok    storage: {ROOT}/tried is written and read from 1 nodes and from here" in driver.stdout
    assert not ObjectPath.of(f"{ROOT}/tried").exists()
    with head.driving("doctor", folder=tmp_path) as driver:
        driver.wait(within_s=300)
    assert "ok    storage: not checked on the nodes; give --out, or set PRUNEYARD_OUT" in driver.stdout


@pytest.mark.ray
@pytest.mark.slow
def test_trials_on_ray_are_pruned_by_control_files_and_a_journal_in_an_object_store(
    store: ObjectStore, head: SharedHead, env: dict[str, str], tmp_path: Path
) -> None:
    uri = f"{ROOT}/halved"
    spec = yaml_spec.write(tmp_path / "spec.yaml", yaml_spec.halving_spec())
    head.run("run", spec, "--out", uri, folder=tmp_path, **store.env, **StepDelay(tmp_path, 0.1).env)
    runs, metrics = Results(uri).runs(), Results(uri).metrics()
    pruned = runs.loc[runs["status"] == "PRUNED", "run_key"]
    assert len(pruned), runs[["run_key", "status"]]
    steps = metrics.groupby("run_key")["step"].max()
    assert (steps[pruned] < steps.max()).all()
    (journal,) = (ObjectPath.of(uri) / "decisions").iterdir()
    assert {line["key"] for line in Journal(journal).lines()} == set(runs["run_key"])
    with driving("resume", uri, "--local", folder=tmp_path, env=env | store.env) as driver:
        assert driver.wait(within_s=300) == 0, driver.output()
    assert set(Results(uri).runs()["attempt"]) == {1}, "a pruned trial ran again"


@pytest.mark.ray
@pytest.mark.slow
def test_a_trial_of_two_workers_writes_to_an_object_store(store: ObjectStore, head: SharedHead, tmp_path: Path) -> None:
    uri = f"{ROOT}/two-workers"
    tables = {**SPEC, "grid": {"method": [{"name": "dense"}]}, "resources": {"workers": 2, "cpus": 1}}
    spec = yaml_spec.write(tmp_path / "spec.yaml", tables)
    head.run("run", spec, "--out", uri, folder=tmp_path, report=True, **store.env)
    (row,) = Store(RunFolder(uri)).runs().to_pylist()
    assert (row["status"], row["num_workers"]) == ("COMPLETED", 2)
    assert [path.name for path in RunFolder(uri).checkpoints(row["run_key"]).glob("step-*")]
    assert names(uri) == {"artifacts", "plan.json", "report.html", "results", "spec.yaml"}
