"""The source of plug-ins that are not ours is part of run keys: changed code is not answered with old results."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from code_caches import forget_code
from in_process_command import Pruneyard

from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.spec.job import Job
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.orchestrator.spec.run_key import check_source
from pruneyard.workloads.sparse.methods.rigl import RigL
from pruneyard.workloads.user_code.identity import source_digest

MODEL = """'''A network of one hidden layer.'''

from dataclasses import dataclass

import numpy as np
from torch import nn

from pruneyard.workloads.models.mlp import Mlp
from .sizes import HIDDEN

__all__ = ["Thin"]


@dataclass(frozen=True, kw_only=True)
class Thin(Mlp):
    width: int = HIDDEN
"""
SPEC: dict[str, Any] = {
    "name": "foreign",
    "kind": "sparse",
    "data": {"name": "digits", "max_train": 200, "max_test": 50},
    "model": "thin",
    "method": {"name": "static", "density": 0.5},
    "budget": {"steps": 4, "batch_size": 16},
}


def _forget() -> None:
    """Removes the plug-ins from this process's caches and imports."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("theirs", "beside")]:
        del sys.modules[name]
    forget_code()


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Writes a file of the distribution `theirs`, which offers the model `thin`, or of a module beside it."""
    site = tmp_path / "site"
    info = site / "theirs-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pruneyard.plugins]\nmodels.thin = theirs.models.thin\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write_file(name: str, text: str) -> None:
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
        _forget()

    for name in ("theirs/__init__.py", "theirs/models/__init__.py"):
        write_file(name, "")
    write_file("beside.py", "SIZE = 8\n")
    write_file("theirs/models/sizes.py", "from beside import SIZE\n\nHIDDEN = SIZE\n")
    write_file("theirs/models/unrelated.py", "")
    write_file("theirs/models/thin.py", MODEL)
    yield write_file
    _forget()


def job() -> Job:
    (found,) = load_spec(SPEC).jobs
    return found


def test_changed_source_is_another_run_and_explain_names_it(
    write: Callable[[str, str], None], tmp_path: Path, pruneyard: Pruneyard
) -> None:
    out = tmp_path / "out"
    first = job()
    assert list(run(SPEC, out, local=True).runs()["run_key"]) == [first.key]
    write("theirs/models/thin.py", MODEL.replace("width: int = HIDDEN", "width: int = HIDDEN + 0"))
    second = job()
    assert second.resolved == first.resolved
    assert second.key != first.key
    (tmp_path / "foreign.yaml").write_text(load_spec(SPEC).to_yaml())
    told = pruneyard("explain", tmp_path / "foreign.yaml", "--out", out).out.splitlines()
    then, now = (each.identity["model"]["source_code"] for each in (first, second))
    assert told[-1].strip() == f"model.source_code: {then!r} there, {now!r} here"
    assert set(run(SPEC, out, local=True).runs()["run_key"]) == {first.key, second.key}
    write("theirs/models/thin.py", MODEL)
    assert job().key == first.key


@pytest.mark.parametrize(
    ("file", "text", "is_another"),
    [
        ("theirs/models/sizes.py", "HIDDEN = 8\n", True),  # imported by the plug-in's file
        ("beside.py", "SIZE = 8  # as before\n", True),  # imported by that, from a folder on the path
        ("theirs/__init__.py", "X = 1\n", True),  # runs before it
        ("theirs/models/unrelated.py", "X = 1\n", False),
    ],
)
def test_what_a_plug_in_imports_is_part_of_its_source(
    write: Callable[[str, str], None], file: str, text: str, is_another: bool
) -> None:
    before = job().key
    write(file, text)
    assert (job().key != before) is is_another


def test_a_process_with_other_source_than_the_planner_refuses_the_job(write: Callable[[str, str], None]) -> None:
    planned = job()
    check_source(planned.kind, planned.workload, planned.identity, planned.key)
    write("beside.py", "SIZE = 8  # as before\n")
    here = job()
    with pytest.raises(ValueError, match=f"run key {here.key} here, {planned.key} there"):
        check_source(here.kind, here.workload, planned.identity, planned.key)


def test_our_own_plug_ins_have_revisions_instead() -> None:
    assert source_digest(RigL) is None
