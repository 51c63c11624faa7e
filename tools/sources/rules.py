"""A rule about Azure or Databricks, its place, and the statement that covers it."""

from dataclasses import dataclass

from tools.sources.form import Statement


@dataclass(frozen=True)
class Rule:
    file: str
    """Path below the repository's root."""
    place: str
    """Names in a Python file, keys in a YAML file."""
    statement: Statement | None
    """None if nothing names the rule's origin."""
    remedy: str = ""
    """Text to write, and its place, if a statement is missing."""
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}{f':{self.line}' if self.line else ''} {self.place}: {self.remedy}"


@dataclass(frozen=True)
class Fault:
    """A statement that cannot be read, or that covers nothing or too much."""

    file: str
    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.file} {self.place}: {self.message}"
