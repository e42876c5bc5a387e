"""A call with nothing to do returns at once, but only while nothing has changed that could change the result."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from in_process_command import Pruneyard
from PIL import Image

from pruneyard.orchestrator.cli import main
from pruneyard.orchestrator.planning import finished
from pruneyard.orchestrator.planning.finished import recall, request_of
from pruneyard.orchestrator.planning.inputs import input_paths
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports.layout import RunFolder
from pruneyard.testing.cases import each_case
from pruneyard.workloads.data.dataset import Source
from pruneyard.workloads.plugins import find, names

SPEC = """\
name: small
kind: sparse
data: {name: image_folder, path: pictures}
model: {name: mlp, width: 8, depth: 1}
method: {name: set, density: 0.5, schedule: {every: 2}}
budget: {steps: 4, batch_size: 16}
seeds: 2
"""

SLOW_MODULES = {"torch", "ray", "pandas", "pyarrow", "scipy", "sklearn"}


def write_images(folder: Path) -> None:
    """Writes images of two classes, all of one size in bytes."""
    generator = np.random.default_rng(0)
    for name, level in (("dark", 40), ("light", 200)):
        (folder / "train" / name).mkdir(parents=True)
        for number in range(20):
            pixels = generator.integers(level - 30, level + 30, (4, 4)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "train" / name / f"{number}.bmp")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a spec, images, and the finished study in `out/small`."""
    folder = tmp_path_factory.mktemp("study")
    write_images(folder / "pictures")
    (folder / "small.yaml").write_text(SPEC)
    with pytest.MonkeyPatch.context() as here:
        here.chdir(folder)
        here.setenv("PRUNEYARD_DATA", str(folder))
        here.setenv("PRUNEYARD_CACHE", str(folder / "cache"))
        here.setattr(sys, "argv", ["pruneyard", "run", "small.yaml", "--local"])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 0
    return folder


def run_command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in a fresh process, which prints the modules it has loaded as its last line on stderr."""
    program = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('modules', *{name.partition('.')[0] for name in sys.modules}, file=sys.stderr))\n"
        "from pruneyard.orchestrator.cli import main\nmain()"
    )
    environment = os.environ | {"PRUNEYARD_DATA": str(folder), "PRUNEYARD_CACHE": str(folder / "cache")}
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def slow_modules(completed: subprocess.CompletedProcess[str]) -> set[str]:
    assert completed.returncode == 0, completed.stderr
    return set(completed.stderr.splitlines()[-1].split()) & SLOW_MODULES


def test_a_finished_study_is_printed_again_within_a_second_of_cpu(study: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    completed = run_command(study, "run", "small.yaml", "--local")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert not slow_modules(completed)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
    assert completed.stderr.startswith("small: all 2 jobs are finished, in out/small; nothing to run\n")
    assert [line.split()[0] for line in completed.stdout.splitlines()] == ["method", "set", "report:"]
    assert not slow_modules(run_command(study, "resume", "out/small"))
    summary = json.loads(run_command(study, "run", "small.yaml", "--json").stdout)
    assert summary["jobs"] == {"completed": 2, "failed": 0, "interrupted": 0, "pruned": 0, "missing": 0}
    assert (summary["exit_code"], summary["report"], len(summary["summary"])) == (0, "out/small/report.html", 1)


def change_spec(study: Path) -> None:
    (study / "small.yaml").write_text(SPEC + "# a comment\n")


def touch_a_picture(study: Path) -> None:
    (study / "pictures" / "train" / "dark" / "3.bmp").touch()


def add_a_picture(study: Path) -> None:
    source = study / "pictures" / "train" / "dark" / "3.bmp"
    (source.parent / "more.bmp").write_bytes(source.read_bytes())


def swap_the_classes(study: Path) -> None:
    train = study / "pictures" / "train"
    for old, new in (("dark", "spare"), ("light", "dark"), ("spare", "light")):
        (train / old).rename(train / new)


def delete_a_table(study: Path) -> None:
    next((study / "out" / "small" / "results" / "runs").iterdir()).unlink()


def delete_the_page(study: Path) -> None:
    (study / "out" / "small" / "report.html").unlink()


def damage_the_stored_answer(study: Path) -> None:
    (study / "out" / "small" / ".finished.json").write_text('{"version": 1')


@each_case(
    "change",
    [change_spec, touch_a_picture, add_a_picture, swap_the_classes, delete_a_table, delete_the_page, damage_the_stored_answer],
)
def test_every_change_is_noticed(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    # A copy with hard links: the same inodes and times, so that only the change can make a difference.
    copy = tmp_path / change.__name__
    subprocess.run(["cp", "-al", study, copy], check=True)
    stored_answer = json.loads((copy / "out" / "small" / ".finished.json").read_text())
    monkeypatch.setenv("PRUNEYARD_DATA", str(copy))
    monkeypatch.setenv("PRUNEYARD_CACHE", str(copy / "cache"))
    monkeypatch.chdir(copy)
    jobs = load_spec("small.yaml").jobs
    inputs = input_paths(jobs)
    assert inputs is not None
    folder = RunFolder(Path("out/small"))
    (copy / "small.yaml").unlink()  # linked, so that writing to it would change the original
    (copy / "small.yaml").write_text(SPEC)
    stored_answer |= {"requests": [request_of("small.yaml")], "inputs": inputs, "inputs_stamp": finished.paths_stamp(inputs)}
    stored_answer |= {"results": finished.results_stamp(folder), "page": finished.page_stamp(folder)}
    folder.finished.unlink()
    Path(str(folder.finished)).write_text(json.dumps(stored_answer))
    assert recall(folder, request_of("small.yaml")) is not None
    change(copy)
    assert recall(folder, request_of("small.yaml")) is None


def test_other_options_ask_for_something_else(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study)
    requests = [
        request_of("small.yaml"),
        request_of("small.yaml", sets=["seeds=3"]),
        request_of("small.yaml", axes=["seeds=3"]),
        request_of("small.yaml", plugins=["seeds=3"]),
        request_of("quickstart"),
    ]
    monkeypatch.setenv("PRUNEYARD_DATA", "/elsewhere")
    requests.append(request_of("small.yaml"))
    assert len(set(requests)) == len(requests)


def test_a_changed_plug_in_of_somebody_else_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "growth.py").write_text("RATE = 1\n")
    info = tmp_path / "growth-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: growth\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pruneyard.plugins]\nsparse.methods.growth = growth\n")
    before = finished.code_stamp()
    monkeypatch.syspath_prepend(str(tmp_path))
    installed = finished.code_stamp()
    (tmp_path / "growth.py").write_text("RATE = 2\n")
    assert len({before, installed, finished.code_stamp()}) == 3


def test_every_data_source_lists_its_files() -> None:
    for family in ("data.sources", "nodes.sources"):
        for name in names(family):
            assert find(family, name).inputs is not Source.inputs, name


def test_a_study_with_a_failed_job_is_planned_again(pruneyard: Pruneyard, tmp_path: Path) -> None:
    spec = SPEC.replace("{name: image_folder, path: pictures}", "{name: digits, max_train: 100, max_test: 50}")
    (tmp_path / "small.yaml").write_text(spec + "optimizer: {name: sgd, lr: 1.0e+30}\n")
    result = pruneyard("run", "small.yaml", "--local")
    assert result.code == 1
    assert "FAILED" in result.out
    assert not (tmp_path / "out" / "small" / ".finished.json").exists()
