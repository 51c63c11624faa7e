"""Faults that a person can make, told apart from our own: these end with one line, ours with a traceback."""


class WorkloadError(Exception):
    """Says what is wrong, where, and what would work."""
