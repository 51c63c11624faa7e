"""The first thing that runs on a machine: refuses a Python that will not do, then hands over to `tools.steps`.

Only syntax and functions that every Python since 2.7 has, so that the refusal itself can be read.
"""

import os
import sys

REQUIRED = (3, 11)


def refusal(version, executable):  # type: (tuple[int, ...], str) -> str
    """Why this Python will not do and what would; empty if it will."""
    if version[:2] == REQUIRED:
        return ""
    found = ".".join(str(part) for part in version[:3])
    return (
        "error: this project runs on Python 3.11, as SynapseML for Spark 3.5 does, but "
        + (executable or "this Python")
        + " is "
        + found
        + ".\n       Install Python 3.11 with its venv module (Debian and Ubuntu: python3.11-venv) and name it:\n"
        + "       PYTHON=python3.11 make local\n"
    )


def main():  # type: () -> int
    refused = refusal(tuple(sys.version_info[:3]), sys.executable)
    if refused:
        sys.stderr.write(refused)
        return 2
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from tools.steps import bootstrap

    return bootstrap(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
