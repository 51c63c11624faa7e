"""Faults that a person can make, told apart from our own: these end with one line, ours with a traceback."""


class WorkloadError(Exception):
    """Says what is wrong, where, and what would work."""


class UndefinedError(WorkloadError):
    """These rows define no model or no figure: they hold clicks only, no click, or nothing."""
