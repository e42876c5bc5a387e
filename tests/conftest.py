"""One torch thread: the networks of tests are too small for more, and threads that wait for each other are slow.

The whole suite loads torch, Ray, onnxruntime and more into one process; once all was reported, their clean-up at the end of
that process was seen to abort it ("double free or corruption"). So the process ends with the suite's own exit status first.
"""

import os
import sys

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

STATUS = pytest.StashKey[int]()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    if STATUS in config.stash:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(config.stash[STATUS])
