"""From a spec to a population on Ray and back: `run`, `load_spec` and `Results`, resolved on first use."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.driver.run import run as run
    from orchestrator.results import Results as Results
    from orchestrator.spec.load import load_spec as load_spec

__all__ = ["Results", "load_spec", "run"]

_HOMES = {"run": "orchestrator.driver.run", "load_spec": "orchestrator.spec.load", "Results": "orchestrator.results"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'orchestrator' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
