"""Why the process of a trial is gone, in words, from what Ray says of it."""



_NODE = ("its node has died", "node was terminated")


_MEMORY = ("running low on memory", "memory usage threshold")  # not torch's words where a GPU is full


def is_oom_kill(error: str) -> bool:
    """Whether Ray ended the process since its node ran low."""
    return any(words in error for words in _MEMORY)


def crash_cause(error: str) -> str:
    """The subject of "... died" or "... ran out of memory", for the first line of a record."""
    if any(words in error for words in _NODE):
        return "the node of this trial died"
    if is_oom_kill(error):
        return "out of memory: the node ran low, and Ray ended the process of this trial"
    return "the process of this trial died"


def describe_crash(error: str, *, run: str) -> str:
    """The same of a run, for a line to the user."""
    if any(words in error for words in _NODE):
        return f"the process of {run} died with its node"
    if is_oom_kill(error):
        return f"the process of {run} was ended by Ray: out of memory on its node"
    return f"the process of {run} died"
