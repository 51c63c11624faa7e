"""Mistakes a person can make: shown as one message, without a stack trace, with an exit code other than 0."""


class UserError(Exception):
    """The message says what is wrong, where, and what would do."""
