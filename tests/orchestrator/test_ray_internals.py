"""Private names of Ray that we use exist in the installed Ray, and its version is one that we require."""

import importlib
import inspect
import tomllib
from pathlib import Path

import ray
from packaging.requirements import Requirement

from pruneyard.cluster import jobs, ray_internals
from pruneyard.cluster.ray_internals import PrivateName
from pruneyard.orchestrator.ray_backend import train_patches, tune_patches
from pruneyard.testing.cases import each_case

TABLES = {
    "cluster/jobs.py": jobs.PRIVATE_NAMES,
    "cluster/ray_internals.py": ray_internals.PRIVATE_NAMES,
    "orchestrator/ray_backend/train_patches.py": train_patches.PRIVATE_NAMES,
    "orchestrator/ray_backend/tune_patches.py": tune_patches.PRIVATE_NAMES,
}
NAMES = [(table, private) for table, names in TABLES.items() for private in names]


def is_unchanged(private: PrivateName) -> bool:
    try:
        found = importlib.import_module(private.module)
        for part in private.name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return False
    return private.parameters is None or tuple(inspect.signature(found).parameters) == private.parameters


@each_case(("table", "private"), NAMES, ids=[f"{one.module}.{one.name}" for _, one in NAMES])
def test_every_private_name_is_where_it_was(table: str, private: PrivateName) -> None:
    assert is_unchanged(private), f"Ray {ray.__version__} moved {private.module}.{private.name}; see {table}"


@each_case(
    "private",
    [
        PrivateName("ray._private.no_such_module", "name"),
        PrivateName("ray._private.services", "no_such_name"),
        PrivateName("ray._private.services", "find_bootstrap_address", ("address",)),
    ],
)
def test_a_moved_or_changed_name_is_noticed(private: PrivateName) -> None:
    assert not is_unchanged(private)


def test_the_installed_ray_is_within_the_range_that_the_project_asks_for() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (wanted,) = [one for text in project["dependencies"] if (one := Requirement(text)).name == "ray"]
    assert wanted.specifier.contains(ray.__version__)
