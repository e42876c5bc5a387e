"""One torch thread: the networks of tests are too small for more, and threads that wait for each other are slow."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
