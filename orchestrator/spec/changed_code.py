"""Refuses code whose files have changed since this process imported them, as in a notebook after an edit."""

from pruneyard.orchestrator.errors import UsageError
from pruneyard.workloads.user_code.source_code import changed_files


def refuse_changed_code() -> None:
    """Raises `UsageError` that names each file that has changed since this process imported it, and how to reload it.

    The process would run the old code, and its workers, or the next process, the new one.
    """
    changed = changed_files()
    if changed:
        listed = ", ".join(str(file) for file in changed.values())
        calls = "; ".join(f"importlib.reload(sys.modules[{name!r}])" for name in changed)
        raise UsageError(f"{listed}: changed since this process imported it; restart the process, or reload it: {calls}")
