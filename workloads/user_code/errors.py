"""The error of code of the user's own that cannot be found, imported or used."""


class UserCodeError(ValueError):
    """Code that a spec names, or that was handed over from Python, cannot be found, imported or used."""
