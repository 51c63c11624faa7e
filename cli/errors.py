"""Errors that the user can correct. The command shows the message without a traceback and exits with a code above 0."""


class UserError(Exception):
    """The message names the problem, its location and the remedy."""
