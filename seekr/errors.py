"""The two ways in which seekr gives up."""


class InputError(ValueError):
    """What the user gave cannot be used (exit status 2).

    The message is one line: the file, line or key, what is wrong with it, and the mend.
    """


class RunError(RuntimeError):
    """A run failed on its way (exit status 1), for example by a loss that is not finite. What was finished stays."""
