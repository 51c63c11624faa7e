#!/usr/bin/env python3
"""Pulumi's server for dynamic providers, ended with its engine.

Stands in for the helper script `pulumi-resource-pulumi-python` beside a built CLI: that one lives on when the engine is
killed, and with it whatever a provider was waiting for.
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
    # As with `python -u`, which the official script gives: the server writes its port without a flush, and the engine
    # would wait for it for ever.
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), write_through=True)
    threading.Thread(target=_end_with_the_engine, daemon=True).start()
    runpy.run_module("pulumi.dynamic", run_name="__main__", alter_sys=True)
