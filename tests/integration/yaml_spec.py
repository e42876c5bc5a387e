"""The specs of the integration tests: small networks on digits, as slow as a test needs."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pruneyard.workloads.plugins import find

METHODS = "sparse.methods"
NUM_STEPS = 51  # three epochs of digits


def spec_of(methods: Sequence[Mapping[str, Any]], *, name: str, **tables: Any) -> dict[str, Any]:
    """A grid over whole method tables; `tables` replace or join the others."""
    return {
        "name": name,
        "kind": "sparse",
        "data": {"name": "digits"},
        "model": {"name": "mlp", "width": 32},
        "schedule": {"name": "patient"},
        "budget": {"epochs": 3, "batch_size": 64, "checkpoint_every_s": 0.2},
        **tables,
        "grid": {"method": [dict(method) for method in methods], **tables.get("grid", {})},
    }


FEW = ("dense", "static", "rigl", "set", "magnitude")


def methods(chosen: Sequence[str], *, name: str) -> dict[str, Any]:
    """Each of the methods once, with mask updates every few steps where it has them."""
    tables = []
    for method in chosen:
        fields = {field.name for field in dataclasses.fields(find(METHODS, method))}
        density = {"density": 0.2} if "density" in fields else {}
        often = {"schedule": {"every": 5}} if "schedule" in fields else {}
        tables.append({"name": method, **density, **often})
    return spec_of(tables, name=name)


def few(folder: Path, **resources: float) -> Path:
    """These jobs as a file, with their run keys, which do not depend on the resources."""
    return write(folder / "spec.yaml", methods(FEW, name="a-few") | {"resources": resources})


def halved() -> dict[str, Any]:
    """One good and three bad learning rates under successive halving."""
    return spec_of(
        [{"name": "static", "density": 0.5}],
        name="halved",
        budget={"epochs": 8, "batch_size": 64},
        grid={"optimizer.lr": [0.2, 1e-6, 1e-7, 1e-8]},
        scheduler={"name": "asha", "metric": "val/accuracy", "grace": 0.25, "reduction_factor": 2},
    )


def write(path: Path, spec: Mapping[str, Any]) -> Path:
    """The spec as a file."""
    with path.open("w") as file:
        YAML().dump(dict(spec), file)
    return path
