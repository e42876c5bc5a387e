"""Short studies, their uninterrupted references, and installed third-party plug-ins."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml_spec
from driving import Driver, driving
from fork_server import ForkServer
from installs import build_wheel, install, write_hostile
from object_store import BUCKET, ObjectStore, environment_variables, object_store
from shared_head import SharedHead, shared_head

from pruneyard.reports.objects import ObjectPath

PLUGINS = {
    "calibrate.methods.fatal": "foreign_plugins.fatal",
    "schedules.failing_rank": "foreign_plugins.failing_rank",
    "schedules.memory_hog": "foreign_plugins.memory_hog",
    "schedules.slow_cosine": "foreign_plugins.slow_cosine",
    "sparse.methods.polluting": "foreign_plugins.polluting",
    "sparse.methods.state_recorder": "foreign_plugins.state_recorder",
}

RARE_GARBAGE_COLLECTION = "import gc\n\ngc.set_threshold(50_000)\n"
"""Every interpreter with the plug-ins runs this as it starts: a fifth of importing torch and Ray is garbage collection."""


@pytest.fixture(scope="session")
def plugin_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder that looks like site-packages after `pip install foreign-plugins`."""
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
    site.joinpath("sitecustomize.py").write_text(RARE_GARBAGE_COLLECTION)
    return site


@pytest.fixture(scope="session")
def env(plugin_site: Path) -> Iterator[dict[str, str]]:
    """Yields the user's environment, with the plug-ins installed and a temporary folder for Ray, which is removed afterwards.

    The path of that folder must be short, because sockets lie in it.
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
    """Yields the Ray head that all tests share which do not change it."""
    with shared_head(env) as started:
        yield started


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds the wheel of this checkout."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def wheel_site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder into which that wheel is installed."""
    target = tmp_path_factory.mktemp("installed") / "site"
    install(wheel, target)
    return target


@pytest.fixture
def one_trial_env(env: dict[str, str]) -> dict[str, str]:
    """Returns an environment in which a driver counts one CPU, so that one trial runs at a time on the cluster that it starts.

    A second process of trials takes four seconds of processor time to start, for each cluster.
    """
    return env | {"LOKY_MAX_CPU_COUNT": "1"}


@pytest.fixture
def wheel_env(env: dict[str, str], wheel_site: Path) -> dict[str, str]:
    """Returns an environment with the package from the wheel, in the folder `$WHEEL`."""
    return {**env, "PYTHONPATH": str(wheel_site), "WHEEL": str(wheel_site)}


@pytest.fixture(params=["as the tests import it", pytest.param("wheel", marks=pytest.mark.slow)])
def installed(request: pytest.FixtureRequest, env: dict[str, str]) -> dict[str, str]:
    """Returns an environment with the package as it is installed here, or as in `wheel_env`."""
    found: dict[str, str] = request.getfixturevalue("wheel_env") if request.param == "wheel" else env
    return found


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Returns a user's folder whose modules have the names of our folders and raise when they are imported."""
    return write_hostile(tmp_path / "hostile")


@pytest.fixture(scope="session")
def object_server() -> Iterator[ObjectStore]:
    """Yields an object store; the environment of this process does not name it."""
    with object_store() as started:
        yield started


@pytest.fixture(scope="module")
def store(object_server: ObjectStore) -> Iterator[ObjectStore]:
    """Yields the object store, with its address and credentials in the environment of this process."""
    with environment_variables(object_server.env):
        yield object_server


@pytest.fixture
def folder(store: ObjectStore, request: pytest.FixtureRequest) -> ObjectPath:
    """Returns a folder of the object store that is empty, for each test."""
    return ObjectPath(BUCKET, request.node.name)


@pytest.fixture(scope="session")
def short_spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes a spec of five sparse-training methods, each for three short epochs."""
    tables = yaml_spec.methods_spec(yaml_spec.SHORT_METHODS, name="short")
    return yaml_spec.write(tmp_path_factory.mktemp("short") / "spec.yaml", tables)


@pytest.fixture(scope="session")
def short_reference(short_spec: Path, env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs the short spec without Ray and without interruption; returns its results."""
    folder = tmp_path_factory.mktemp("short-reference")
    with driving("run", short_spec, "--out", folder / "out", "--local", folder=folder, env=env) as driver:
        assert driver.wait(within_s=600) == 0, driver.output()
    return folder / "out"
