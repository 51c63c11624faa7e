"""A rule about Azure or Databricks, where it is stated, and what covers it."""

from dataclasses import dataclass

from tools.sources.form import Statement


@dataclass(frozen=True)
class Rule:
    file: str
    """From the repository's root."""
    place: str
    """Names in a Python file, keys in a YAML file."""
    statement: Statement | None
    """None: nothing says where the rule comes from."""
    remedy: str = ""
    """What to write where, if there is no statement."""
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
