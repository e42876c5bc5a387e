"""Lets the browser's tests use the made-up study of the reports' tests, and one browser a module."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "reports"))


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    from chromium import open_browser

    with open_browser(tmp_path_factory.mktemp("browser") / "profile") as browser:
        yield browser


@pytest.fixture
def browser(started):
    """Returns the browser of all tests, with an empty page, console and list of requests."""
    started.get("about:blank")
    started.get_log("browser")
    started.get_log("performance")
    return started
