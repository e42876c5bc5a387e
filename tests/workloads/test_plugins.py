import dataclasses
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from code_caches import forget_code

from pruneyard.orchestrator.driver.run import run
from pruneyard.workloads import plugins
from pruneyard.workloads.plugins import UnknownPluginError, describe, find, find_job, kinds, name_of, names
from pruneyard.workloads.user_code.families import FAMILIES

WORKLOADS = Path(plugins.__file__).parent


def test_every_family_that_specs_choose_from_has_conformance_suites() -> None:
    texts = [path.read_text(encoding="utf-8") for path in WORKLOADS.rglob("*.py")]
    chosen_from = {family for text in texts for family in re.findall(r'Plugin\("([\w.]+)"\)', text)}
    assert set(FAMILIES) == chosen_from | {"deploy.formats"}  # which a command's option chooses
    assert {"dense", "static", "set", "rigl"} <= set(names("sparse.methods"))


def test_the_reference_is_read_from_its_line() -> None:
    (rigl,) = [found for found in describe("sparse.methods") if found.name == "rigl"]
    assert "Rigging the Lottery" in rigl.reference


def test_a_reference_of_several_lines_is_read_to_its_end() -> None:
    found = {each.name: each.reference for each in describe("calibrate.methods")}
    assert found["platt"].endswith("as in Lin, Lin and Weng 2007")
    assert found["histogram"].endswith("naive Bayesian classifiers")


def test_an_instance_knows_its_name() -> None:
    assert name_of(find("optimizers", "adamw")()) == "adamw"


def test_an_unknown_name_is_refused_with_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(UnknownPluginError, match=r"'riggl' is none of .*rigl.*did you mean rigl\?") as caught:
        find("sparse.methods", "riggl")
    assert caught.value.nearest == "rigl"


def test_a_name_like_nothing_gets_no_hint() -> None:
    with pytest.raises(UnknownPluginError) as caught:
        find("optimizers", "zzzzzz")
    assert caught.value.nearest == ""


def test_every_folder_with_a_job_is_a_kind() -> None:
    assert "sparse" in kinds()
    for kind in kinds():
        assert dataclasses.is_dataclass(find_job(kind))
    with pytest.raises(ValueError, match="'spars' is none of"):
        find_job("spars")


@pytest.fixture
def foreign_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Installs a distribution that offers `fresh` as a sparse method and claims the name `rigl` too."""
    info = tmp_path / "elsewhere-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[pruneyard.plugins]\n"
        "sparse.methods.fresh = elsewhere.fresh\n"
        "sparse.methods.rigl = elsewhere.fresh\n"
        "sparse.methods.other = elsewhere.fresh\n"
    )
    package = tmp_path / "elsewhere"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "fresh.py").write_text(
        '"""Grow afresh."""\n\nfrom dataclasses import dataclass\n\n__all__ = ["Fresh"]\n\n\n'
        "@dataclass(frozen=True, kw_only=True)\nclass Fresh:\n    density: float\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("elsewhere", "elsewhere.fresh"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    forget_code()
    yield tmp_path
    forget_code()


@pytest.fixture
def foreign_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Installs a distribution with its own kind of job, and a method for it."""
    info = tmp_path / "counters-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: counters\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[pruneyard.plugins]\nkinds.counting = counters.job\nkinds.sparse = counters.job\n"
        "counting.methods.up = counters.up\n"
    )
    package = tmp_path / "counters"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "up.py").write_text(
        '"""Counts up."""\n\nfrom dataclasses import dataclass\n\n__all__ = ["Up"]\n\n\n'
        "@dataclass(frozen=True, kw_only=True)\nclass Up:\n    by: int = 1\n"
    )
    (package / "job.py").write_text(COUNTING)
    monkeypatch.syspath_prepend(tmp_path)
    forget_code()
    yield
    for name in ("counters", "counters.up", "counters.job"):
        sys.modules.pop(name, None)
    forget_code()


COUNTING = """
from dataclasses import dataclass
from typing import Annotated, Any
from pruneyard.workloads.data.dataset import Source
from pruneyard.workloads.plugins import Plugin
from pruneyard.workloads.workload import Metric, Outcome, Progress

__all__ = ["CountingJob"]


@dataclass(frozen=True, kw_only=True)
class CountingJob:
    data: Annotated[Source, Plugin("data.sources")]
    method: Annotated[Any, Plugin("counting.methods")]
    seed: int = 0

    def run(self, context):
        rows = len(context.load_data(self.data).train.labels)
        metric = Metric(step=1, epoch=0.0, split="train", name="rows", value=float(rows * self.method.by), wall_s=0.0)
        outcome = Outcome(predictions={}, weights={}, masks={}, num_parameters=None, num_active=None, train_flops=None,
                          train_s=0.0, peak_memory_bytes=None)
        yield Progress(step=1, num_steps=1, metrics=(metric,), outcome=outcome)

    def check(self, data):
        return []

    def expected_work(self, data):
        return 0.0, 0
"""


def test_third_parties_add_a_kind_of_job_and_cannot_replace_ours(foreign_kind: None, tmp_path: Path) -> None:
    assert "counting" in kinds()
    assert find_job("sparse").__name__ == "SparseJob"
    assert names("counting.methods") == ["up"]
    spec = {"name": "c", "kind": "counting", "data": "digits", "method": {"name": "up", "by": 2}, "seeds": 2}
    results = run(spec, tmp_path / "out", local=True)
    assert results.exit_code == 0, results.runs()["error"].tolist()
    assert list(results.metrics()["value"]) == [2 * len(find("data.sources", "digits")().load().train.labels)] * 2


def test_an_unknown_family_is_no_family() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"counting\.methods is no family"):
        names("counting.methods")


def test_third_parties_add_plugins_and_cannot_replace_ours(foreign_package: Path) -> None:
    assert "fresh" in names("sparse.methods")
    assert find("sparse.methods", "fresh").__name__ == "Fresh"
    assert find("sparse.methods", "rigl").__name__ == "RigL"
    assert any(found.summary == "Grow afresh." for found in describe("sparse.methods"))
    assert plugins.name_of(find("sparse.methods", "fresh")(density=0.1)) == "fresh"


def test_a_third_partys_file_is_called_what_its_plugin_is_called(foreign_package: Path) -> None:
    with pytest.raises(ImportError, match=r"other.*elsewhere\.fresh"):
        find("sparse.methods", "other")


def test_a_file_must_have_one_public_name(foreign_package: Path) -> None:
    (foreign_package / "elsewhere" / "fresh.py").write_text('__all__ = ["A", "B"]\nA = B = 1\n')
    with pytest.raises(ImportError, match="exactly one class"):
        find("sparse.methods", "fresh")
