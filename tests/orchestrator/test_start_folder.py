"""`resume` and `retry` run the code that a study was started with, from whatever folder they are called."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from code_caches import forget_code, forget_modules_of
from in_process_command import CommandResult, Pruneyard

from pruneyard.cluster.bundle import is_bundle, write_bundle
from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.planned import read_started_in
from pruneyard.workloads.user_code import files, shipping

CODE = """
from pathlib import Path

def main():
    if not Path("may_end").exists():
        raise RuntimeError("not yet")
    return {"score": SCORE}
"""


@pytest.fixture(autouse=True)
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder `ours` with a training function, beside `theirs` with another one in a file of the same name."""
    for name, score in (("ours", 1.0), ("theirs", 2.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.py").write_text(CODE.replace("SCORE", str(score)))
    (tmp_path / "theirs" / "may_end").touch()
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(shipping, "_USED", {})
    yield tmp_path / "ours"
    forget(tmp_path)


def forget(folder: Path) -> None:
    """Makes this process as new to the code below a folder."""
    for place in (files.LOCATIONS.folders, files.LOCATIONS.modules):
        place.clear()
    forget_modules_of(folder)
    forget_code()


@pytest.fixture
def call(tmp_path: Path, pruneyard: Pruneyard, monkeypatch: pytest.MonkeyPatch) -> Pruneyard:
    """Calls the command as `python -m pruneyard` in a folder, which Python then searches first, in a process of its own."""

    def call_in(folder: Path, *arguments: str | Path) -> CommandResult:
        forget(tmp_path)
        with monkeypatch.context() as patch:
            patch.chdir(folder)
            patch.setattr(sys, "path", [str(folder), *sys.path])
            return pruneyard(*arguments, "--local", "--no-report")

    return call_in


def start(call: Pruneyard, folder: Path, function: str = "train.py:main") -> Path:
    """Starts a study whose only run fails; returns its folder of results."""
    (folder / "spec.json").write_text(json.dumps({"name": "own", "kind": "function", "function": function}))
    assert call(folder, "run", "spec.json").code == 1
    return folder / "out" / "own"


def scores(out: Path) -> list[float]:
    return [float(value) for value in Results(out).metrics()["value"]]


@pytest.mark.parametrize("verb", ["resume", "retry"])
@pytest.mark.parametrize("function", ["train.py:main", "train:main"])
def test_the_code_and_the_files_of_the_first_folder_are_used_in_another(
    function: str, verb: str, call: Pruneyard, ours: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = start(call, ours, function)
    (ours / "may_end").touch()
    told = call(ours.parent / "theirs", verb, "../ours/out/own")
    assert told.code == 0, told.err
    assert f"this study was started in {ours}" in caplog.text
    assert scores(out) == [1.0]
    assert len(Results(out).runs()) == 1


def forget_start(out: Path) -> None:
    """Lets the folder be one of an earlier version."""
    plan = json.loads((out / "plan.json").read_text())
    del plan["started_in"]
    (out / "plan.json").write_text(json.dumps(plan))


def move_all(out: Path) -> None:
    shutil.move(out.parents[1], out.parents[2] / "moved")


@pytest.mark.parametrize(("change", "name"), [(forget_start, "ours"), (move_all, "moved")])
def test_without_the_first_folder_the_current_one_must_have_its_code(
    change: object, name: str, call: Pruneyard, ours: Path
) -> None:
    assert callable(change)
    change(start(call, ours))
    here, theirs = ours.parent / name, ours.parent / "theirs"
    told = call(theirs, "resume", here / "out" / "own")
    assert told.code == 2
    assert f"{here}/out/own: its spec gives none of its jobs from {theirs}" in told.err
    assert f"the code here is {theirs}/train.py" in told.err
    assert not scores(here / "out" / "own")
    (here / "may_end").touch()
    assert call(here, "resume", "out/own").code == 0
    assert scores(here / "out" / "own") == [1.0]


def test_a_change_of_the_code_in_the_first_folder_is_planned_as_before(call: Pruneyard, ours: Path) -> None:
    out = start(call, ours)
    (ours / "train.py").write_text("def main():\n    return {'score': 3.0}\n")
    assert call(ours, "resume", "out/own").code == 0
    assert scores(out) == [3.0]


def test_the_folder_of_a_submitted_job_is_not_remembered(call: Pruneyard, ours: Path) -> None:
    assert read_started_in(RunFolder(start(call, ours))) == str(ours)
    bundle = ours.parent / "bundle"
    bundle.mkdir()
    write_bundle(bundle, spec="{name: own, kind: function, function: 'train.py:main'}", code={"train.py": ours / "train.py"})
    assert is_bundle(bundle)
    shutil.rmtree(bundle / "pruneyard")
    assert call(bundle, "run", "spec.yaml").code == 1
    assert read_started_in(RunFolder(bundle / "out" / "own")) is None
