"""Shortens the traceback of a failed run to the one line that tables and messages show."""

import re
import sysconfig
from itertools import dropwhile
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
    """Returns the line of a run's error that says what is wrong, with file and line of the user's own code that it passed last.

        error_line(traceback.format_exc())  # "KeyError: 'lr' (train.py:12)"

    It is the first line of the exception, and the next one too where the first only announces it; without a traceback, the last
    line. Only the name of the file is given. Where the traceback passes through no such code, the line stands alone.
    """
    frames = list(_FRAME.finditer(error))
    line = _MODULE.sub("", _message(error[frames[-1].end() :] if frames else "") or error.strip().splitlines()[-1])
    own = [frame for frame in frames if _is_own(frame["file"])]
    return f"{line} ({Path(own[-1]['file']).name}:{own[-1]['line']})" if own else line


def _message(after: str) -> str:
    """Returns the first line of the exception in what follows the last frame of a traceback; empty if there is none."""
    lines = list(dropwhile(lambda line: not line or line[0].isspace(), after.splitlines()[1:]))
    filled = [line.strip() for line in lines if line.strip()]
    return " ".join(filled[: 2 if filled and filled[0].endswith(":") else 1])


def _is_own(file: str) -> bool:
    if file.startswith("<") or not INSTALLED.isdisjoint(Path(file).parts):
        return False
    return not any(Path(file).is_relative_to(folder) for folder in _NO_USER_CODE)
