"""Shortens the traceback of a failed run to the one line that tables and messages show."""

import re
import sysconfig
from pathlib import Path

from pruneyard.workloads.user_code.files import INSTALLED

_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+)', flags=re.MULTILINE)
_MODULE = re.compile(r"^pruneyard\w*\.(?:\w+\.)*(?=\w+(: |$))")
"""The module in front of the name of an error that this project or a file of a plug-in defines."""
_NO_USER_CODE = (
    *(Path(__file__).resolve().parents[2] / folder for folder in ("cluster", "orchestrator", "reports", "workloads")),
    Path(sysconfig.get_paths()["stdlib"]),
)
"""The folders of this project and of Python, which hold no code of the user's own."""


def error_line(error: str) -> str:
    """Returns the last line of a run's error, with file and line of the user's own code that it passed through last.

        error_line(traceback.format_exc())  # "KeyError: 'lr' (train.py:12)"

    Only the name of the file is given. Where the traceback passes through no such code, the last line stands alone.
    """
    last = _MODULE.sub("", error.strip().splitlines()[-1])
    own = [frame for frame in _FRAME.finditer(error) if _is_own(frame["file"])]
    return f"{last} ({Path(own[-1]['file']).name}:{own[-1]['line']})" if own else last


def _is_own(file: str) -> bool:
    if file.startswith("<") or not INSTALLED.isdisjoint(Path(file).parts):
        return False
    return not any(Path(file).is_relative_to(folder) for folder in _NO_USER_CODE)
