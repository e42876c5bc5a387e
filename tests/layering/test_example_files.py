"""The files that workloads/README.md offers to copy: they run in one study and pass the suites of their families."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from manuals import MANUALS, ROOT, blocks, example_files

from pruneyard import Results
from pruneyard.reports.records import Status

FILES = example_files()
PLUGINS = [path for path in FILES if not path.endswith("job.py")]
STUDY = """
name: copied
kind: sparse
data: {name: stripes}
model: {name: pooled_convnet, width: 8}
method: {name: sensitivity_drop, density: 0.2, schedule: {every: 2}}
objective: {name: confidence_penalty}
budget: {epochs: 2, batch_size: 64}
"""


def test_the_manual_has_a_file_for_each_thing_to_add() -> None:
    folders = ["sparse/methods", "objectives", "data/sources", "models", "nearest_mean"]
    assert [str(Path(path).parent) for path in FILES] == [f"workloads/{folder}" for folder in folders]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies the package with the manual's files in the folders that it names; returns the folder to import it from."""
    folder = tmp_path_factory.mktemp("copy")
    package = folder / "pruneyard"
    shutil.copytree(ROOT / "orchestrator" / "api", package)
    for name in ("orchestrator", "cluster", "reports"):
        (package / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "workloads", package / "workloads")
    for path, text in FILES.items():
        (package / path).parent.mkdir(exist_ok=True)
        (package / path).write_text(text)
    (package / "workloads" / "nearest_mean" / "__init__.py").write_text('"""Jobs of kind `nearest_mean`."""\n')
    return folder


def run(spec: str, folder: Path, tmp_path: Path, *options: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(spec)
    command = [sys.executable, "-m", "pruneyard", "run", str(path), "--local", "--out", str(tmp_path / "out"), *options]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)


@pytest.mark.slow
def test_a_study_runs_with_all_copied_plugins(copy: Path, tmp_path: Path) -> None:
    run(STUDY, copy, tmp_path, "--no-report")
    (record,) = Results(tmp_path / "out").runs().to_dict("records")
    assert (record["data"], record["model"], record["method"]) == ("stripes", "pooled_convnet", "sensitivity_drop")
    assert record["status"] == Status.COMPLETED


@pytest.mark.slow
def test_a_kind_of_job_is_added_by_its_folder_alone(copy: Path, tmp_path: Path) -> None:
    (spec,) = [text for text in blocks(MANUALS["workloads"], "yaml") if "kind: nearest_mean" in text]
    run(spec, copy, tmp_path)
    results = Results(tmp_path / "out")
    assert set(results.runs()["kind"]) == {"nearest_mean"}
    assert (results.summary()["test/accuracy"] > 0.8).all()
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.slow
def test_copied_plugins_pass_their_conformance_suites(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "pruneyard.testing.selection", "-p", "no:cacheprovider"]
    command += ["-p", "no:xdist", "--pyargs", "pruneyard.testing"]
    for path in FILES:
        file = tmp_path / (Path(path).name if path in PLUGINS else "nearest_mean.py")
        file.write_text(FILES[path])
        command += ["--plugin", file.name]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout
    assert " passed" in finished.stdout
