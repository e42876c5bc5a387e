"""Derives from Ray's error text why the process of a trial crashed, and describes it to the user."""

# Parts of Ray's messages: Tune keeps only the text of an error.
_NODE_FAILURE = ("its node has died", "node was terminated")
_OUT_OF_MEMORY = ("running low on memory", "memory usage threshold")  # Ray's words; torch's for a full GPU differ


def is_oom_kill(error: str) -> bool:
    """Returns whether Ray's memory monitor killed the process because its node ran low on memory."""
    return any(words in error for words in _OUT_OF_MEMORY)


def crash_cause(error: str) -> str:
    """Returns the cause of a crash in one clause, for the last line of the error in the record."""
    if any(words in error for words in _NODE_FAILURE):
        return "the node of this trial died"
    if is_oom_kill(error):
        return "out of memory: the node ran low, and Ray ended the process of this trial"
    return "the process of this trial died"


def describe_crash(error: str, *, run: str) -> str:
    """Returns the cause of a crash in one clause that names the run, for a message to the user."""
    if any(words in error for words in _NODE_FAILURE):
        return f"the process of {run} died with its node"
    if is_oom_kill(error):
        return f"the process of {run} was ended by Ray: out of memory on its node"
    return f"the process of {run} died"
