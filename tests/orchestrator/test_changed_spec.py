"""A spec that changed between two calls: an unfinished study is not dropped silently."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_stopped_runs import SPEC, SendsSignal

from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.results import Results

Pruneyard = Callable[..., Any]
OTHER = {**SPEC, "optimizer": {"lr": 0.025}}


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder in which one of three jobs is finished and two never started."""
    folder = tmp_path_factory.mktemp("unfinished") / "out"
    run(SPEC, folder, local=True, display=SendsSignal(signal.SIGTERM))
    return folder


@pytest.fixture
def folder(unfinished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(unfinished, tmp_path / "out"))


def test_a_changed_field_is_refused_with_both_values_and_nothing_is_touched(folder: Path) -> None:
    before = (folder / "spec.yaml").read_text()
    with pytest.raises(UsageError) as caught:
        run(OTHER, folder, local=True)
    lines = str(caught.value).splitlines()
    assert lines[0] == (
        f"{folder}: holds a study of 3 jobs, 2 of which are not finished, and this spec has none of them"
    )
    assert lines[1:] == [
        "the two nearest jobs differ in:",
        "  optimizer.lr: 0.1 there, 0.025 here",
        "give the spec that was run before, another --out, or --add to run this spec in the same folder",
    ]
    assert (folder / "spec.yaml").read_text() == before
    assert run(SPEC, folder, local=True).exit_code == 0
    assert set(Results(folder).runs()["attempt"]) == {1}


def test_a_spec_of_the_folder_that_was_changed_by_hand_is_compared_with_what_ran(
    folder: Path, pruneyard: Pruneyard
) -> None:
    spec = folder / "spec.yaml"
    spec.write_text(spec.read_text().replace("width: 8", "width: 9"))
    result = pruneyard("resume", folder, "--local")
    assert result.code == 2
    assert "model.width: 8 there, 9 here" in result.err
    assert len(Results(folder).runs()) == 1


def test_another_spec_runs_in_the_same_folder_on_request(folder: Path, pruneyard: Pruneyard) -> None:
    spec = folder / "spec.yaml"
    other = folder.parent / "other.yaml"
    other.write_text(spec.read_text().replace("width: 8", "width: 9"))
    assert pruneyard("run", other, "--out", folder, "--local").code == 2
    assert pruneyard("run", other, "--out", folder, "--local", "--add").code == 0
    assert len(Results(folder).runs()) == 4


def test_more_jobs_are_welcome_and_fewer_are_warned_of(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run({**SPEC, "seeds": [0, 5]}, folder, local=True)
    assert "2 unfinished jobs of the spec that this folder was last run with are not in this spec" in caplog.text
    caplog.clear()
    assert run({**SPEC, "seeds": 6}, folder, local=True).exit_code == 0
    assert "unfinished" not in caplog.text


def test_after_a_finished_study_another_spec_may_follow(folder: Path) -> None:
    run(SPEC, folder, local=True)
    assert run(OTHER, folder, local=True).exit_code == 0
    assert len(Results(folder).runs()) == 6
