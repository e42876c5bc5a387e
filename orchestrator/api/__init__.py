"""Runs populations of sparse trainings, distillations and calibrations on Ray: one spec in, Parquet and one HTML page out.

Importing this module loads neither torch nor Ray; each name is resolved on first use.

    import pruneyard

    results = pruneyard.run("quickstart", out="out/quickstart")
    results.summary()
"""

import importlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pruneyard.orchestrator.driver.run import run as run
    from pruneyard.orchestrator.driver.sweep import sweep as sweep
    from pruneyard.orchestrator.outputs.calibration import calibrate as calibrate
    from pruneyard.orchestrator.outputs.evaluation import evaluate as evaluate
    from pruneyard.orchestrator.reading.run_artifacts import load_network as load_network
    from pruneyard.orchestrator.reading.run_artifacts import predictions as predictions
    from pruneyard.orchestrator.results import Results as Results
    from pruneyard.orchestrator.spec.load import load_spec as load_spec
    from pruneyard.workloads.function.context import FunctionContext as FunctionContext

__all__ = ["FunctionContext", "Results", "calibrate", "evaluate", "load_network", "load_spec", "predictions", "run", "sweep"]

_MODULES = {
    "FunctionContext": "pruneyard.workloads.function.context",
    "Results": "pruneyard.orchestrator.results",
    "calibrate": "pruneyard.orchestrator.outputs.calibration",
    "evaluate": "pruneyard.orchestrator.outputs.evaluation",
    "load_network": "pruneyard.orchestrator.reading.run_artifacts",
    "load_spec": "pruneyard.orchestrator.spec.load",
    "predictions": "pruneyard.orchestrator.reading.run_artifacts",
    "run": "pruneyard.orchestrator.driver.run",
    "sweep": "pruneyard.orchestrator.driver.sweep",
}


def _ensure_home() -> None:
    """Sets $HOME to a temporary folder for a user who has none, as in a container under an arbitrary user id.

    Libraries ask for the home folder when they are imported, and raise without one. This runs before any of our modules.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = str(Path(tempfile.gettempdir()) / f"pruneyard-{os.getuid()}" / "home")


_ensure_home()


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'pruneyard' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
