#!/usr/bin/env python3
"""Pulumi's server for dynamic providers, ended with its engine.

Replaces the helper script `pulumi-resource-pulumi-python` of a built CLI, which continues after the engine was killed,
and with it a provider that waits.
"""

import io
import os
import runpy
import sys
import threading
import time

_PARENT = os.getppid()


def _end_with_the_engine() -> None:
    while os.getppid() == _PARENT:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    # Unbuffered, as by `python -u` in the official script: the server does not flush its port, and the engine would
    # wait for it forever.
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), write_through=True)
    threading.Thread(target=_end_with_the_engine, daemon=True).start()
    runpy.run_module("pulumi.dynamic", run_name="__main__", alter_sys=True)
