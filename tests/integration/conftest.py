"""One study of every method, its undisturbed reference, and third-party plug-ins as an installer leaves them."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml_spec
from driving import driving
from object_store import BUCKET, ObjectStore, environment, object_store

from pruneyard.reports.objects import ObjectPath
from pruneyard.workloads.plugins import names

PLUGINS = {
    "calibrate.methods.fatal": "foreign_plugins.fatal",
    "schedules.greedy": "foreign_plugins.greedy",
    "schedules.lopsided": "foreign_plugins.lopsided",
    "schedules.patient": "foreign_plugins.patient",
    "sparse.methods.soiling": "foreign_plugins.soiling",
    "sparse.methods.witness": "foreign_plugins.witness",
}


@pytest.fixture(scope="session")
def plugin_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as site-packages is after `pip install foreign-plugins`."""
    site = tmp_path_factory.mktemp("site")
    shutil.copytree(
        Path(__file__).parent / "foreign_plugins",
        site / "foreign_plugins",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    info = site / "foreign_plugins-1.0.dist-info"
    info.mkdir()
    info.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: foreign-plugins\nVersion: 1.0\n")
    lines = [f"{name} = {module}" for name, module in PLUGINS.items()]
    info.joinpath("entry_points.txt").write_text("\n".join(["[pruneyard.plugins]", *lines, ""]))
    return site


@pytest.fixture(scope="session")
def env(plugin_site: Path) -> Iterator[dict[str, str]]:
    """The user's environment, with the plug-ins installed and Ray's scratch folder where it is swept.

    Its path must be short: sockets lie in it.
    """
    scratch = tempfile.mkdtemp(prefix="yard")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PRUNEYARD_", "PYTEST_"))}
    path = os.pathsep.join([str(plugin_site), *filter(None, [os.environ.get("PYTHONPATH")])])
    yield {**kept, "PYTHONPATH": path, "RAY_TMPDIR": scratch, "TERM": "dumb"}
    shutil.rmtree(scratch, ignore_errors=True)


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    """An object store, which this process knows."""
    with object_store() as started, environment(started.env):
        yield started


@pytest.fixture
def folder(store: ObjectStore, request: pytest.FixtureRequest) -> ObjectPath:
    """An empty one in that store, for each test."""
    return ObjectPath(BUCKET, request.node.name)


@pytest.fixture(scope="session")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every sparse-training method there is, each for three short epochs."""
    tables = yaml_spec.methods(names(yaml_spec.METHODS), name="every-method")
    return yaml_spec.write(tmp_path_factory.mktemp("spec") / "spec.yaml", tables)


@pytest.fixture(scope="session")
def short_spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few of its jobs, with the same run keys."""
    tables = yaml_spec.methods(yaml_spec.FEW, name="a-few")
    return yaml_spec.write(tmp_path_factory.mktemp("short") / "spec.yaml", tables)


@pytest.fixture(scope="session")
def reference(spec: Path, env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of that spec without Ray and without a disturbance."""
    folder = tmp_path_factory.mktemp("reference")
    with driving("run", spec, "--out", folder / "out", "--local", folder=folder, env=env) as driver:
        assert driver.wait(within_s=600) == 0, driver.said()
    return folder / "out"


@pytest.fixture(scope="session")
def short_reference(short_spec: Path, env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of the few."""
    folder = tmp_path_factory.mktemp("short-reference")
    with driving("run", short_spec, "--out", folder / "out", "--local", folder=folder, env=env) as driver:
        assert driver.wait(within_s=600) == 0, driver.said()
    return folder / "out"
