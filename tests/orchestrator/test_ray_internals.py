"""Private names of Ray that we use exist in the installed Ray, and its version is one that we require."""

import importlib
import inspect
import re
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
PRIVATE_IMPORT = re.compile(r"^\s*(?:from|import) ray\.(?:\w+\.)*_\w+", flags=re.MULTILINE)
NAMES = [(table, private) for table, names in TABLES.items() for private in names]


def is_unchanged(private: PrivateName) -> bool:
    try:
        found = importlib.import_module(private.module)
        for part in private.name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return False
    return private.parameters is None or tuple(inspect.signature(found).parameters) == private.parameters


def moved(table: str, private: PrivateName) -> str:
    """Returns what to do about a private name that Ray has moved or changed."""
    takes = "" if private.parameters is None else f" with the parameters ({', '.join(private.parameters)})"
    return (
        f"Ray {ray.__version__} no longer has {private.module}.{private.name}{takes}, which {table} uses; Ray "
        f"{', '.join(ray_internals.CHECKED_RAY_VERSIONS)} had it. Find what replaces it, change its uses and its entry of "
        "PRIVATE_NAMES there, and run the tests marked ray and nodes; or exclude this version from "
        f"{wanted_ray()} in pyproject.toml"
    )


def wanted_ray() -> Requirement:
    """Returns the versions of Ray that the project supports."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (wanted,) = [one for text in project["dependencies"] if (one := Requirement(text)).name == "ray"]
    return wanted


@each_case(("table", "private"), NAMES, ids=[f"{one.module}.{one.name}" for _, one in NAMES])
def test_every_private_name_is_where_it_was(table: str, private: PrivateName) -> None:
    assert is_unchanged(private), moved(table, private)


def test_the_message_names_file_name_versions_and_remedy() -> None:
    text = moved("cluster/jobs.py", PrivateName("ray._private.services", "gone", ("self",)))
    for part in (ray.__version__, "ray._private.services.gone", "(self)", "cluster/jobs.py", str(wanted_ray().specifier)):
        assert part in text


def test_private_modules_of_ray_are_imported_only_where_their_names_are_listed() -> None:
    package = Path(__file__).parents[2]
    for folder in ("cluster", "orchestrator", "reports", "workloads"):
        for file in sorted((package / folder).rglob("*.py")):
            found = PRIVATE_IMPORT.search(file.read_text(encoding="utf-8"))
            name = str(file.relative_to(package))
            assert name in TABLES or found is None, f"{name} has {found and found[0]!r}; only {', '.join(TABLES)} may use it"


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
    wanted = wanted_ray()
    assert wanted.specifier.contains(ray.__version__), f"Ray {ray.__version__} is installed; the project asks for {wanted}"
