"""A spec becomes Parquet and a page, on Ray as in this process; readers may read at any time."""

import contextlib
import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from comparing import assert_same_numbers
from driving import Driver, StepDelay, driving, listening_addresses, reachable_from_outside
from yaml_spec import SHORT_METHODS

from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.predictions import read_predictions
from pruneyard.reports.store import Store
from pruneyard.workloads.metrics.classification import expected_calibration_error, softmax

pytestmark = pytest.mark.ray

JOIN = """
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=sys.argv[1])
except AuthenticationError:
    sys.exit(33)
"""
START = r"(, loading data|, starting Ray|, starting the first trials)?"
LINES = (
    r"pruneyard: reading \S+",
    r"short: \d+ jobs, on a Ray cluster of this machine, into \S+",
    rf"\d+/\d+ done, \d+ running(, \d+ waiting)?{START}(, best val/accuracy \d\.\d{{4}} \([^)]*\))?(, [^,]* left)?",
)


@dataclass
class ObservedStudy:
    """Observations of one uninterrupted study on Ray while it ran."""

    folder: Path
    code: int = -1
    stdout: str = ""
    stderr: str = ""
    listening_addresses: dict[str, list[str]] = field(default_factory=dict)
    join_exit_codes: dict[str, int] = field(default_factory=dict)  # of clients, by their token
    metric_rows: list[tuple[str, int]] = field(default_factory=list)  # run keys and their numbers of rows, at each poll
    polls: int = 0
    num_runs: list[int] = field(default_factory=list)  # at each poll
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


class _Collector(logging.Handler):
    def __init__(self, messages: list[str]) -> None:
        super().__init__()
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.append(record.getMessage())


@pytest.fixture(scope="module")
def observed(short_spec: Path, env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> ObservedStudy:
    home = tmp_path_factory.mktemp("observed")
    study = ObservedStudy(folder=home / "out")
    handler = _Collector(study.warnings)
    logging.getLogger("pruneyard.reports").addHandler(handler)
    step_delay = StepDelay(home, 2.0)  # so that the study lasts until clients on a busy machine have tried to join
    command = ("run", short_spec, "--out", "out", "--json")
    with driving(*command, folder=home, env=env | step_delay.env, fresh=True, report=True) as driver:
        driver.wait_until(lambda: bool(driver.actors()), within_s=180)
        study.seconds["first actor"] = time.monotonic() - driver.started
        _record_sockets(driver, study)
        _try_to_join(study, env, short_spec)
        step_delay.set(0.05)
        while driver.is_running():
            _read(study)
            if study.polls > 20 and study.num_runs[-1]:
                step_delay.set(0)
            time.sleep(0.1)
        study.code = driver.wait(within_s=180)
        study.seconds["whole run"] = time.monotonic() - driver.started
        study.seconds["end to gone"] = driver.seconds_until_gone()
        study.stdout, study.stderr = driver.stdout, driver.stderr
    logging.getLogger("pruneyard.reports").removeHandler(handler)
    print("seconds:", {name: round(value, 1) for name, value in study.seconds.items()})
    return study


def _record_sockets(driver: Driver, study: ObservedStudy) -> None:
    for process in [driver.process, *driver.live_processes()]:
        with contextlib.suppress(psutil.NoSuchProcess):
            study.listening_addresses[f"{process.name()} {process.pid}"] = listening_addresses(process)


def _try_to_join(study: ObservedStudy, env: dict[str, str], short_spec: Path) -> None:
    (name,) = [name for name in study.listening_addresses if name.startswith("gcs_server")]
    address = "127.0.0.1:" + study.listening_addresses[name][0].rpartition(":")[2]
    tokens = {
        "none": {"RAY_AUTH_MODE": "disabled"},
        "another": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "ab" * 32},
    }
    for name, token in tokens.items():
        client = subprocess.run(
            [sys.executable, "-c", JOIN, address], env={**env, **token}, capture_output=True, timeout=60
        )
        study.join_exit_codes[name] = client.returncode
    home, wrong_env = study.folder.parent, env | tokens["another"] | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    with driving("run", short_spec, "--out", "other", "--address", address, folder=home, env=wrong_env) as driver:
        study.join_exit_codes["another, as a study"] = driver.wait(within_s=60)
        assert "a wrong one, for the Ray cluster at" in driver.stderr


def _read(study: ObservedStudy) -> None:
    runs, metrics = Store(RunFolder(study.folder)).runs(), Store(RunFolder(study.folder)).metrics()
    Results(study.folder).summary()
    run_keys = metrics.column("run_key").to_pylist()
    study.metric_rows += [(key, run_keys.count(key)) for key in runs.column("run_key").to_pylist()]
    study.num_runs.append(len(runs))
    study.polls += 1


def test_a_run_ends_well_and_says_so_in_json_alone(observed: ObservedStudy) -> None:
    assert observed.code == 0, observed.stderr
    output = json.loads(observed.stdout)
    total = len(SHORT_METHODS)
    assert output["exit_code"] == 0
    assert output["jobs"] == {"completed": total, "failed": 0, "interrupted": 0, "pruned": 0, "missing": 0}
    assert len(output["summary"]) == total
    assert Path(observed.folder.parent, output["report"]).is_file()


def test_progress_on_a_pipe_is_plain_lines_without_ray_noise(observed: ObservedStudy) -> None:
    lines = observed.stderr.splitlines()
    unexpected = [line for line in lines if not any(re.fullmatch(pattern, line) for pattern in LINES)]
    assert not unexpected
    assert "\x1b" not in observed.stderr
    assert lines[-1].startswith(f"{len(SHORT_METHODS)}/{len(SHORT_METHODS)} done, 0 running")


def test_the_tables_are_complete(observed: ObservedStudy) -> None:
    runs, metrics, curves = (
        getattr(Results(observed.folder), name)() for name in ("runs", "metrics", "curves")
    )
    assert set(runs["status"]) == {"COMPLETED"}
    assert sorted(runs["method"]) == sorted(SHORT_METHODS)
    assert set(runs["attempt"]) == {1}
    assert runs["error"].isna().all()
    assert (runs["ended_at"] > runs["started_at"]).all()
    for key in runs["run_key"]:
        rows = metrics[metrics["run_key"] == key]
        evaluated = rows[rows["split"].isin(["val", "test"])]
        assert sorted(set(evaluated["step"])) == [17, 34, 51]
        assert set(evaluated["name"]) >= {"accuracy", "nll", "brier", "ece"}
        assert set(rows[rows["step"] == 51]["split"]) == {"train", "val", "calib", "test"}
        assert set(curves[curves["run_key"] == key]["name"]) == {"class_accuracy", "density", "reliability"}


def test_any_parquet_reader_opens_the_runs(observed: ObservedStudy) -> None:
    folder = RunFolder(observed.folder).table("runs")
    for table in (pq.read_table(folder), ds.dataset(folder, format="parquet").to_table()):
        assert sorted(table.column("run_key").to_pylist()) == sorted(
            Results(observed.folder).runs()["run_key"]
        )


def test_artifacts_are_whole_and_their_predictions_give_the_metrics_again(observed: ObservedStudy) -> None:
    results = Results(observed.folder)
    metrics = results.metrics()
    last = metrics[metrics["step"] == 51].set_index(["run_key", "split", "name"])["value"]
    for _, run in results.runs().iterrows():
        artifact = RunFolder(observed.folder).artifact(run["run_key"])
        manifest = json.loads((artifact / "manifest.json").read_text())
        assert manifest["run_key"] == run["run_key"]
        assert sorted(manifest["files"]) == ["masks.safetensors", "model.safetensors", "predictions.parquet"]
        assert all((artifact / name).is_file() for name in manifest["files"])
        for split, (_, labels, logits) in read_predictions(artifact / "predictions.parquet").items():
            accuracy = float((logits.argmax(axis=1) == labels).mean())
            ece = expected_calibration_error(softmax(logits), labels)
            assert accuracy == pytest.approx(last[run["run_key"], split, "accuracy"], abs=1e-12)
            assert ece == pytest.approx(last[run["run_key"], split, "ece"], abs=1e-12)


def test_the_report_names_every_method(observed: ObservedStudy) -> None:
    page = RunFolder(observed.folder).report.read_text()
    assert all(name in page for name in SHORT_METHODS)


def test_readers_never_fail_and_never_see_half_a_run(observed: ObservedStudy) -> None:
    assert observed.polls >= 5
    assert observed.num_runs == sorted(observed.num_runs)
    assert observed.num_runs[-1] > 0
    assert min(observed.num_runs) < len(SHORT_METHODS)
    final = Store(RunFolder(observed.folder)).metrics().column("run_key").to_pylist()
    assert {(key, final.count(key)) for key in set(final)} >= set(observed.metric_rows)
    assert not observed.warnings


def test_the_cluster_listens_on_loopback_only_and_wants_a_token(observed: ObservedStudy) -> None:
    assert any(name.startswith("gcs_server") for name in observed.listening_addresses)
    reachable = {name: reachable_from_outside(found) for name, found in observed.listening_addresses.items()}
    assert not any(reachable.values()), reachable
    assert observed.join_exit_codes == {"none": 33, "another": 33, "another, as a study": 4}


def test_without_ray_the_numbers_are_the_same(observed: ObservedStudy, short_reference: Path) -> None:
    assert_same_numbers(observed.folder, short_reference)


@pytest.fixture(scope="module")
def second_run(observed: ObservedStudy, short_spec: Path, env: dict[str, str]) -> Iterator[tuple[Driver, dict[Path, int]]]:
    before = {path: path.stat().st_mtime_ns for path in observed.folder.rglob("*")}
    # A new interpreter, as the first run had: a fork has imported the plug-ins from another folder, which counts as other code.
    with driving("run", short_spec, "--out", "out", folder=observed.folder.parent, env=env, fresh=True, report=True) as driver:
        driver.wait(within_s=180)
        yield driver, before


def test_a_second_run_starts_nothing_and_changes_only_the_report(
    second_run: tuple[Driver, dict[Path, int]], observed: ObservedStudy
) -> None:
    driver, before = second_run
    assert driver.wait(within_s=1) == 0, driver.output()
    assert not driver.seen_processes, "a process was started"
    after = {path: path.stat().st_mtime_ns for path in observed.folder.rglob("*")}
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changed <= {RunFolder(observed.folder).report, observed.folder}


def test_without_json_stdout_is_the_summary_and_the_page(second_run: tuple[Driver, dict[Path, int]]) -> None:
    driver, _ = second_run
    *table, last = driver.stdout.splitlines()
    assert last == "report: out/report.html"
    assert {line.split()[0] for line in table if line.strip()} >= {"method", *SHORT_METHODS}
