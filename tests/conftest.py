"""Sets one torch thread, and how processes share the suite.

The networks of tests are too small for more than one thread, and threads that wait for each other are slow. Where processes
share the suite, files stay whole, and all but one of them start Ray, before all else: half of these run the files with tests on
the shared head, which so starts once in each, and the others those whose tests start clusters of their own. Tests on Ray wait
more than they compute, so there are more processes than cores; the one without Ray yields to the others.
"""

import os
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

YIELDING = 10  # niceness of a process that runs other tests than those that start Ray

pytest_plugins = ["pruneyard.testing.selection"]  # installed, an entry point does the same


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Returns three processes for whole folders, and none for single files, where starting them costs more than they save."""
    return 3 if any(Path(argument).is_dir() for argument in config.args) else 0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a process that shares the suite: moves the tests that start Ray before the others, whose order stays.

    Raises `pytest.UsageError` if a test outside tests/integration starts Ray: it would start while two others do, and time out.
    """
    stray = [item.nodeid for item in items if item.get_closest_marker("ray") and "integration" not in item.path.parts]
    if stray:
        raise pytest.UsageError(f"tests that start Ray lie in tests/integration; these do not: {', '.join(stray)}")
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: "integration" not in item.path.parts)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Yields the processor, in a process that shares the suite, to tests that start Ray, whose waits are bounded."""
    if hasattr(item.config, "workerinput") and "integration" not in item.path.parts and os.nice(0) == 0:
        os.nice(YIELDING)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Returns a scheduler that gives whole files to processes, and the files that start Ray to all but one of them."""
    from xdist.scheduler import LoadScopeScheduling

    num_shares = max(1, (len(config.getoption("tx") or []) - 1) // 2)
    shares = {}
    for on_shared_head in (True, False):
        files = sorted((config.rootpath / "tests/integration").glob("test_*.py"))
        files = [file for file in files if ("SharedHead" in file.read_text()) == on_shared_head]
        where = "on the shared head" if on_shared_head else "on clusters of their own"
        shares |= {file.name: f"tests {where}, share {num % num_shares}" for num, file in enumerate(files)}

    class WholeFiles(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return shares[Path(file).name] if file.startswith("tests/integration/") else file

    return WholeFiles(config, log)
