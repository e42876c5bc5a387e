"""One torch thread: the networks of tests are too small for more, and threads that wait for each other are slow.

Where processes share the suite (`-n 2 --dist loadgroup --no-loadscope-reorder` of pytest-xdist), files stay whole, and one
process alone starts Ray, before all else: what it does takes as long as the rest together.
"""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts every test into the group that one process runs."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        group = "ray" if "integration" in item.path.parts else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
    if config.getoption("dist") == "loadgroup":
        items.sort(key=lambda item: "integration" not in item.path.parts)
