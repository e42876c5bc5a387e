"""Run keys follow the code that this process has loaded: a reload counts, and an edit without a reload is refused."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from code_caches import forget_code, forget_modules_of

from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.spec.job import Job
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.workloads.user_code import files
from pruneyard.workloads.user_code.identity import digest_of

SOURCE = """from torch import nn
{imports}

class Net(nn.Sequential):
    def __init__(self, in_features: int, num_classes: int):
        super().__init__(nn.Flatten(), nn.Linear(in_features, {width}), nn.Linear({width}, num_classes))
"""


def source(width: Any, *, imports: str = "") -> str:
    return SOURCE.format(width=width, imports=imports)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder on the search path, whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(files, "LOCATIONS", files.CodeLocations())
    importlib.invalidate_caches()
    yield tmp_path
    forget_modules_of(tmp_path)
    forget_code()


def job_of(reference: str) -> Job:
    (job,) = load_spec(
        {
            "name": "own",
            "kind": "sparse",
            "data": {"name": "digits"},
            "model": {"name": reference},
            "method": {"name": "dense"},
            "budget": {"steps": 2},
            "seeds": 1,
        }
    ).jobs
    return job


def width_of(job: Job) -> int:
    workload: Any = job.workload
    return int(workload.model.build(image_shape=(1, 8, 8), num_classes=10)[1].out_features)


@pytest.mark.parametrize("reference", ["nets.py:Net", "nets:Net"])
def test_an_edit_is_refused_until_it_is_reloaded_and_then_has_another_key(folder: Path, reference: str) -> None:
    file = folder / "nets.py"
    file.write_text(source(8))
    first = job_of(reference)
    digest = digest_of(reference)
    file.write_text(source(128))
    assert digest_of(reference) == digest, "a study that runs keeps its keys"
    module = type(first.workload.model).target.__module__  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=rf"nets.py: changed since this process imported it; .*sys.modules\['{module}'\]"):
        job_of(reference)
    importlib.reload(sys.modules[module])
    second = job_of(reference)
    assert (width_of(first), width_of(second)) == (8, 128)
    assert second.key != first.key
    file.write_text(source(8))
    importlib.reload(sys.modules[module])
    assert job_of(reference).key == first.key


def test_an_edit_before_the_first_look_is_refused_too(folder: Path) -> None:
    (folder / "early.py").write_text(source(8))
    importlib.import_module("early")
    (folder / "early.py").write_text(source(128))
    with pytest.raises(UsageError, match=r"early.py: changed since this process imported it"):
        job_of("early:Net")
    importlib.reload(sys.modules["early"])
    assert width_of(job_of("early:Net")) == 128


def test_an_edit_of_what_a_module_imports_counts_as_well(folder: Path) -> None:
    (folder / "sizes.py").write_text("WIDTH = 8\n")
    (folder / "outer.py").write_text(source("sizes.WIDTH", imports="import sizes"))
    first = job_of("outer:Net")
    (folder / "sizes.py").write_text("WIDTH = 128\n")
    with pytest.raises(UsageError, match=r"sizes.py: changed since"):
        job_of("outer:Net")
    importlib.reload(sys.modules["sizes"])
    second = job_of("outer:Net")
    assert (width_of(second), second.key != first.key) == (128, True)


def test_a_module_that_is_not_loaded_yet_may_change(folder: Path) -> None:
    (folder / "late.py").write_text("WIDTH = 8\n")
    (folder / "lazy.py").write_text(source(8) + "\n    def grow(self):\n        import late\n        return late.WIDTH\n")
    first = job_of("lazy:Net").key
    (folder / "late.py").write_text("WIDTH = 128\n")
    assert job_of("lazy:Net").key != first


def test_a_file_that_is_touched_or_deleted(folder: Path) -> None:
    file = folder / "kept.py"
    file.write_text(source(8))
    first = job_of("kept:Net").key
    file.write_text(source(8))
    assert job_of("kept:Net").key == first
    file.unlink()
    with pytest.raises(UsageError, match=r"kept.py: changed since"):
        job_of("kept:Net")
