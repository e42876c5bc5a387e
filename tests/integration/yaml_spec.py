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
    """Returns a spec with a grid over whole method tables; `tables` replace its other tables or add to them."""
    return {
        "name": name,
        "kind": "sparse",
        "data": {"name": "digits"},
        "model": {"name": "mlp", "width": 32},
        "schedule": {"name": "slow_cosine"},
        "budget": {"epochs": 3, "batch_size": 64, "checkpoint_every_s": 0.2},
        **tables,
        "grid": {"method": [dict(method) for method in methods], **tables.get("grid", {})},
    }


SHORT_METHODS = ("dense", "static", "rigl", "set", "magnitude")


def methods_spec(method_names: Sequence[str], *, name: str) -> dict[str, Any]:
    """Returns a spec of each method once, with mask updates every few steps where it has them."""
    tables = []
    for method in method_names:
        fields = {field.name for field in dataclasses.fields(find(METHODS, method))}
        density = {"density": 0.2} if "density" in fields else {}
        schedule = {"schedule": {"every": 5}} if "schedule" in fields else {}
        tables.append({"name": method, **density, **schedule})
    return spec_of(tables, name=name)


def write_short_spec(folder: Path, **resources: float) -> Path:
    """Writes the spec of `short_spec` with other resources, on which run keys do not depend."""
    return write(folder / "spec.yaml", methods_spec(SHORT_METHODS, name="short") | {"resources": resources})


def halving_spec() -> dict[str, Any]:
    """Returns a spec of one good and three bad learning rates under successive halving."""
    return spec_of(
        [{"name": "static", "density": 0.5}],
        name="halved",
        budget={"epochs": 8, "batch_size": 64},
        grid={"optimizer.lr": [0.2, 1e-6, 1e-7, 1e-8]},
        scheduler={"name": "asha", "metric": "val/accuracy", "grace": 0.25, "reduction_factor": 2},
    )


def write(path: Path, spec: Mapping[str, Any]) -> Path:
    """Writes the spec to a file; returns its path."""
    with path.open("w") as file:
        YAML().dump(dict(spec), file)
    return path
