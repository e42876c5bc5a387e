"""Sets one torch thread, and how processes share the suite.

The networks of tests are too small for more than one thread, and threads that wait for each other are slow. Where processes
share the suite, files stay whole, and one process alone starts Ray, before all else, which takes as long as the rest.
"""

import os
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

pytest_plugins = ["pruneyard.testing.selection"]  # installed, an entry point does the same


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Returns two processes for whole folders, and none for single files, where starting them costs more than they save."""
    return 2 if any(Path(argument).is_dir() for argument in config.args) else 0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a process that shares the suite: moves the tests that start Ray before the others, whose order stays."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: "integration" not in item.path.parts)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Returns a scheduler that gives whole files to processes, and all files that start Ray to one of them."""
    from xdist.scheduler import LoadScopeScheduling

    class WholeFiles(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "those that start Ray" if file.startswith("tests/integration/") else file

    return WholeFiles(config, log)
