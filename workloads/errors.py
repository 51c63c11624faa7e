"""Errors of input or configuration. A task prints them in one line; any other exception is a bug, with traceback."""


class WorkloadError(Exception):
    """The message names the fault, where it is, and a remedy."""


class UndefinedError(WorkloadError):
    """The rows do not define a model or a metric: they hold only clicks, no clicks, or no rows."""
