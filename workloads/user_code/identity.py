"""The identity of code of the user's own: the digest and the name that enter run keys."""

import hashlib
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path

from pruneyard.workloads.user_code.handed_over import HANDED_OVER, is_handed_over
from pruneyard.workloads.user_code.references import module_and_attribute, resolve
from pruneyard.workloads.user_code.source_code import is_installed, is_ours, module_digest, module_files

SOURCE = "source_code"
"""The key under which an identity has the digest of code of third parties."""


def digest_of(name: str) -> str:
    """Returns 16 hexadecimal digits that change when the code changes that a reference names.

    - For `package.module:Name` and `path/file.py:Name` they cover the file of the module and, file by file, what it imports:
      modules of the same top-level package, and modules that no package manager installed. Imports by a computed name are not
      seen. The path of a file does not enter.
    - For code of an installed package they cover the name and the version of its distribution.
    - For `Name@DIGEST` they are DIGEST, see `object_source`.

    Raises `UserCodeError` if the reference cannot be resolved.
    """
    if is_handed_over(name):
        resolve(name)
        return name.rpartition("@")[2]
    module, _ = module_and_attribute(name)
    resolve(name)
    if is_ours(module) or is_installed(module):
        return hashlib.sha256(_distributions(module).encode()).hexdigest()[:16]
    return module_digest(module)


def identity_name(name: str) -> str:
    """Returns the part of a reference that enters run keys: without the folder of a file, and without a digest."""
    if is_handed_over(name):
        return name.rpartition("@")[0]
    location, colon, attribute = name.rpartition(":")
    return f"{Path(location).name}{colon}{attribute}" if location.endswith(".py") else name


def files_of(name: str) -> list[Path]:
    """Returns the files of the source that `digest_of` covers; none for code of installed packages."""
    modules = modules_of(name)
    return sorted({file for module in modules for file in module_files(module).values()})


def modules_of(name: str) -> list[str]:
    """Returns the modules whose source counts for a reference, without those that they import."""
    if is_handed_over(name):
        return list(HANDED_OVER[name].modules) if name in HANDED_OVER else []
    module, _ = module_and_attribute(name)
    return [] if is_ours(module) or is_installed(module) else [module]


def source_digest(cls: type) -> str | None:
    """Returns the digest of the source of a class that a spec chooses; None for a class of this package."""
    reference: str | None = getattr(cls, "reference", None)
    if reference is not None:
        return digest_of(reference)
    return None if is_ours(cls.__module__) else module_digest(cls.__module__)


def source_files(cls: type) -> list[Path]:
    """Returns the files of that source; none for a class of this package."""
    reference: str | None = getattr(cls, "reference", None)
    if reference is not None:
        return files_of(reference)
    return [] if is_ours(cls.__module__) else sorted(module_files(cls.__module__).values())


@cache
def _distributions(module: str) -> str:
    """Returns names and versions of the distributions that hold the module's top-level package; empty for those of Python."""
    names = sorted(set(packages_distributions().get(module.partition(".")[0], [])))
    return " ".join(f"{name}=={version(name)}" for name in names)
