"""Short studies, their uninterrupted references, and installed third-party plug-ins."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml_spec
from driving import Driver, driving
from installs import build_wheel, install, write_hostile
from object_store import BUCKET, ObjectStore, environment, object_store
from preloaded import ForkServer
from shared_head import SharedHead, shared_head

from pruneyard.reports.objects import ObjectPath

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
    env = {**kept, "PYTHONPATH": path, "RAY_TMPDIR": scratch, "TERM": "dumb"}
    Driver.fork_server = ForkServer(env)
    yield env
    Driver.fork_server.end()
    Driver.fork_server = None
    shutil.rmtree(scratch, ignore_errors=True)


@pytest.fixture(scope="session")
def head(env: dict[str, str]) -> Iterator[SharedHead]:
    """The Ray head of all tests that leave it as it is."""
    with shared_head(env) as started:
        yield started


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def wheel_site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which that wheel is installed."""
    target = tmp_path_factory.mktemp("installed") / "site"
    install(wheel, target)
    return target


@pytest.fixture(params=["as the tests import it", pytest.param("wheel", marks=pytest.mark.slow)])
def installed(request: pytest.FixtureRequest, env: dict[str, str]) -> dict[str, str]:
    """An environment with the package as it is installed here, which is editable, or from the wheel, in the folder `$WHEEL`."""
    if request.param != "wheel":
        return env
    site = str(request.getfixturevalue("wheel_site"))
    return {**env, "PYTHONPATH": site, "WHEEL": site}


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder of a user whose modules have the names of our folders and raise when they are imported."""
    return write_hostile(tmp_path / "hostile")


@pytest.fixture(scope="session")
def object_server() -> Iterator[ObjectStore]:
    """An object store that is not in the default environment."""
    with object_store() as started:
        yield started


@pytest.fixture(scope="module")
def store(object_server: ObjectStore) -> Iterator[ObjectStore]:
    """The same, and this process knows it."""
    with environment(object_server.env):
        yield object_server


@pytest.fixture
def folder(store: ObjectStore, request: pytest.FixtureRequest) -> ObjectPath:
    """An empty one in that store, for each test."""
    return ObjectPath(BUCKET, request.node.name)


@pytest.fixture(scope="session")
def short_spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few sparse-training methods, each for three short epochs."""
    tables = yaml_spec.methods(yaml_spec.FEW, name="a-few")
    return yaml_spec.write(tmp_path_factory.mktemp("short") / "spec.yaml", tables)


@pytest.fixture(scope="session")
def short_reference(short_spec: Path, env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of that spec without Ray and without a disturbance."""
    folder = tmp_path_factory.mktemp("short-reference")
    with driving("run", short_spec, "--out", folder / "out", "--local", folder=folder, env=env) as driver:
        assert driver.wait(within_s=600) == 0, driver.said()
    return folder / "out"
