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
from driving import Driver, Patience, beyond_loopback, driving, listening
from yaml_spec import FEW

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
    r"a-few: \d+ jobs, on a Ray cluster of this machine, into \S+",
    rf"\d+/\d+ done, \d+ running(, \d+ waiting)?{START}(, best val/accuracy \d\.\d{{4}} \([^)]*\))?(, [^,]* left)?",
)


@dataclass
class Watched:
    """Observations of one uninterrupted study on Ray while it ran."""

    folder: Path
    code: int = -1
    stdout: str = ""
    stderr: str = ""
    listening: dict[str, list[str]] = field(default_factory=dict)
    joined: dict[str, int] = field(default_factory=dict)  # exit code of a client, by what token it had
    half: list[tuple[str, int]] = field(default_factory=list)  # finished run and its number of metric rows
    polls: int = 0
    growing: list[int] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


class _Collect(logging.Handler):
    def __init__(self, into: list[str]) -> None:
        super().__init__()
        self._into = into

    def emit(self, record: logging.LogRecord) -> None:
        self._into.append(record.getMessage())


@pytest.fixture(scope="module")
def watched(short_spec: Path, env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Watched:
    home = tmp_path_factory.mktemp("watched")
    seen = Watched(folder=home / "out")
    handler = _Collect(seen.warnings)
    logging.getLogger("pruneyard.reports").addHandler(handler)
    patience = Patience(home, 0.05)
    with driving("run", short_spec, "--out", "out", "--json", folder=home, env=env | patience.env, fresh=True) as driver:
        driver.wait_until(lambda: bool(driver.actors()), within_s=180)
        seen.seconds["first actor"] = time.monotonic() - driver.started
        _look_at_sockets(driver, seen)
        _try_to_join(seen, env, short_spec)
        while driver.running():
            _read(seen)
            if seen.polls > 20 and seen.growing[-1]:
                patience.set(0)
            time.sleep(0.1)
        seen.code = driver.wait(within_s=180)
        seen.seconds["whole run"] = time.monotonic() - driver.started
        seen.seconds["end to gone"] = driver.seconds_until_gone()
        seen.stdout, seen.stderr = driver.stdout, driver.stderr
    logging.getLogger("pruneyard.reports").removeHandler(handler)
    print("seconds:", {name: round(value, 1) for name, value in seen.seconds.items()})
    return seen


def _look_at_sockets(driver: Driver, seen: Watched) -> None:
    for process in [driver.process, *driver.offspring()]:
        with contextlib.suppress(psutil.NoSuchProcess):
            seen.listening[f"{process.name()} {process.pid}"] = listening(process)


def _try_to_join(seen: Watched, env: dict[str, str], short_spec: Path) -> None:
    (name,) = [name for name in seen.listening if name.startswith("gcs_server")]
    address = "127.0.0.1:" + seen.listening[name][0].rpartition(":")[2]
    tokens = {
        "none": {"RAY_AUTH_MODE": "disabled"},
        "another": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "ab" * 32},
    }
    for name, token in tokens.items():
        asked = subprocess.run(
            [sys.executable, "-c", JOIN, address], env={**env, **token}, capture_output=True, timeout=60
        )
        seen.joined[name] = asked.returncode
    home, wrong = seen.folder.parent, env | tokens["another"] | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    with driving("run", short_spec, "--out", "other", "--address", address, folder=home, env=wrong) as driver:
        seen.joined["another, as a study"] = driver.wait(within_s=60)
        assert "a wrong one, for the Ray cluster at" in driver.stderr


def _read(seen: Watched) -> None:
    runs, metrics = Store(RunFolder(seen.folder)).runs(), Store(RunFolder(seen.folder)).metrics()
    Results(seen.folder).summary()
    owners = metrics.column("run_key").to_pylist()
    seen.half += [(key, owners.count(key)) for key in runs.column("run_key").to_pylist()]
    seen.growing.append(len(runs))
    seen.polls += 1


def test_a_run_ends_well_and_says_so_in_json_alone(watched: Watched) -> None:
    assert watched.code == 0, watched.stderr
    said = json.loads(watched.stdout)
    total = len(FEW)
    assert said["exit_code"] == 0
    assert said["jobs"] == {"completed": total, "failed": 0, "interrupted": 0, "pruned": 0, "missing": 0}
    assert len(said["summary"]) == total
    assert Path(watched.folder.parent, said["report"]).is_file()


def test_progress_on_a_pipe_is_plain_lines_without_ray_noise(watched: Watched) -> None:
    lines = watched.stderr.splitlines()
    strange = [line for line in lines if not any(re.fullmatch(pattern, line) for pattern in LINES)]
    assert not strange
    assert "\x1b" not in watched.stderr
    assert lines[-1].startswith(f"{len(FEW)}/{len(FEW)} done, 0 running")


def test_the_tables_are_complete(watched: Watched) -> None:
    runs, metrics, curves = (
        getattr(Results(watched.folder), name)() for name in ("runs", "metrics", "curves")
    )
    assert set(runs["status"]) == {"COMPLETED"}
    assert sorted(runs["method"]) == sorted(FEW)
    assert set(runs["attempt"]) == {1}
    assert runs["error"].isna().all()
    assert (runs["ended_at"] > runs["started_at"]).all()
    for key in runs["run_key"]:
        own = metrics[metrics["run_key"] == key]
        measured = own[own["split"].isin(["val", "test"])]
        assert sorted(set(measured["step"])) == [17, 34, 51]
        assert set(measured["name"]) >= {"accuracy", "nll", "brier", "ece"}
        assert set(own[own["step"] == 51]["split"]) == {"train", "val", "calib", "test"}
        assert set(curves[curves["run_key"] == key]["name"]) == {"density", "reliability"}


def test_any_parquet_reader_opens_the_runs(watched: Watched) -> None:
    folder = RunFolder(watched.folder).table("runs")
    for table in (pq.read_table(folder), ds.dataset(folder, format="parquet").to_table()):
        assert sorted(table.column("run_key").to_pylist()) == sorted(
            Results(watched.folder).runs()["run_key"]
        )


def test_artifacts_are_whole_and_their_predictions_give_the_metrics_again(watched: Watched) -> None:
    results = Results(watched.folder)
    metrics = results.metrics()
    last = metrics[metrics["step"] == 51].set_index(["run_key", "split", "name"])["value"]
    for _, run in results.runs().iterrows():
        artifact = RunFolder(watched.folder).artifact(run["run_key"])
        manifest = json.loads((artifact / "manifest.json").read_text())
        assert manifest["run_key"] == run["run_key"]
        assert sorted(manifest["files"]) == ["masks.safetensors", "model.safetensors", "predictions.parquet"]
        assert all((artifact / name).is_file() for name in manifest["files"])
        for split, (_, labels, logits) in read_predictions(artifact / "predictions.parquet").items():
            accuracy = float((logits.argmax(axis=1) == labels).mean())
            ece = expected_calibration_error(softmax(logits), labels)
            assert accuracy == pytest.approx(last[run["run_key"], split, "accuracy"], abs=1e-12)
            assert ece == pytest.approx(last[run["run_key"], split, "ece"], abs=1e-12)


def test_the_report_names_every_method(watched: Watched) -> None:
    page = RunFolder(watched.folder).report.read_text()
    assert all(name in page for name in FEW)


def test_readers_never_fail_and_never_see_half_a_run(watched: Watched) -> None:
    assert watched.polls >= 5
    assert watched.growing == sorted(watched.growing)
    assert watched.growing[-1] > 0
    assert min(watched.growing) < len(FEW)
    final = Store(RunFolder(watched.folder)).metrics().column("run_key").to_pylist()
    assert {(key, final.count(key)) for key in set(final)} >= set(watched.half)
    assert not watched.warnings


def test_the_cluster_listens_on_loopback_only_and_wants_a_token(watched: Watched) -> None:
    assert any(name.startswith("gcs_server") for name in watched.listening)
    beyond = {name: beyond_loopback(found) for name, found in watched.listening.items()}
    assert not any(beyond.values()), beyond
    assert watched.joined == {"none": 33, "another": 33, "another, as a study": 4}


def test_without_ray_the_numbers_are_the_same(watched: Watched, short_reference: Path) -> None:
    assert_same_numbers(watched.folder, short_reference)


@pytest.fixture(scope="module")
def again(watched: Watched, short_spec: Path, env: dict[str, str]) -> Iterator[tuple[Driver, dict[Path, int]]]:
    before = {path: path.stat().st_mtime_ns for path in watched.folder.rglob("*")}
    # A new interpreter, as the first run had: a fork has imported the plug-ins from another folder, which counts as other code.
    with driving("run", short_spec, "--out", "out", folder=watched.folder.parent, env=env, fresh=True) as driver:
        driver.wait(within_s=180)
        yield driver, before


def test_a_second_run_starts_nothing_and_changes_only_the_report(
    again: tuple[Driver, dict[Path, int]], watched: Watched
) -> None:
    driver, before = again
    assert driver.wait(within_s=1) == 0, driver.said()
    assert not driver.seen, "a process was started"
    after = {path: path.stat().st_mtime_ns for path in watched.folder.rglob("*")}
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changed <= {RunFolder(watched.folder).report, watched.folder}


def test_without_json_stdout_is_the_summary_and_the_page(again: tuple[Driver, dict[Path, int]]) -> None:
    driver, _ = again
    *table, last = driver.stdout.splitlines()
    assert last == "report: out/report.html"
    assert {line.split()[0] for line in table if line.strip()} >= {"method", *FEW}
