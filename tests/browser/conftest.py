"""Lets the browser's tests use the made-up study of the reports' tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "reports"))
