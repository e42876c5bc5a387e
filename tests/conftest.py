"""One torch thread: the networks of tests are too small for more, and threads that wait for each other are slow.

Where processes share the suite (`-n 2 --no-loadscope-reorder` of pytest-xdist), files stay whole, and one process alone starts
Ray, before all else: what it does takes as long as the rest together.
"""

import os
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a process that shares the suite: the others, in their order, behind those that start Ray."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: "integration" not in item.path.parts)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Who runs what."""
    from xdist.scheduler import LoadScopeScheduling

    class WholeFiles(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "those that start Ray" if file.startswith("tests/integration/") else file

    return WholeFiles(config, log)
