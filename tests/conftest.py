"""Sets one torch thread, and how processes share the suite.

The networks of tests are too small for more than one thread, and threads that wait for each other are slow. Where processes
share the suite, files stay whole, as do those of all packaged specs. Two processes alone start Ray, before all else: one the
files with tests on the shared head, which so starts once, and one the files whose tests start clusters of their own. These tests
wait more than they compute, so there is one process more than there are cores; it yields to them.

Half of the time in which a process collects the tests went to compiling files and to searching imported modules for garbage. So
bytecode is kept, and Python searches for garbage only once the tests are collected, in what they make.
"""

import gc
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # of the processes that tests start
sys.dont_write_bytecode = False
gc.disable()

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


def pytest_collection_finish() -> None:
    """Searches for garbage from now on, but not in modules and tests, which stay until the end.

    Hypothesis, which pytest imports at the latest when it ends, looks for references to what other packages register with it,
    and finds none in what is frozen.
    """
    import hypothesis  # noqa: F401

    gc.freeze()
    gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Yields the processor, in a process that shares the suite, to tests that start Ray, whose waits are bounded."""
    if hasattr(item.config, "workerinput") and "integration" not in item.path.parts and os.nice(0) == 0:
        os.nice(YIELDING)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Returns a scheduler that gives whole files to processes, and files that share something costly to the same one."""
    from xdist.scheduler import LoadScopeScheduling

    @cache
    def scope(file: str) -> str:
        text = (config.rootpath / file).read_text()
        if file.startswith("tests/integration/"):
            return "tests on the shared head" if "SharedHead" in text else "tests that start clusters"
        return "tests of all packaged specs" if "from packaged import" in text else file

    class WholeFiles(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope(nodeid.partition("::")[0])

    return WholeFiles(config, log)
