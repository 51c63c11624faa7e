"""First program on a machine: refuses unsupported Python versions, then calls `tools.steps`.

Uses only syntax and functions that Python has since 2.7, so that every version can print the refusal.
"""

import os
import sys

REQUIRED = (3, 11)


def refusal(version, executable):  # type: (tuple[int, ...], str) -> str
    """Error message with the remedy for an unsupported Python; empty for a supported one."""
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
