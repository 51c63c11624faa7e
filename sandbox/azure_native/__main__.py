"""Serves the provider to the engine that started it: prints a port, ends when asked to or when the engine is gone."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
from pulumi.runtime.proto import provider_pb2_grpc

from sandbox.azure_native.provider import AzureNative

_CALLS_AT_ONCE = 64
_LARGEST_MESSAGE = 400 * 1024 * 1024  # the engine's own limit


def main() -> None:
    engine = os.getppid()
    asked_to_leave = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked_to_leave.set())

    options = [(f"grpc.max_{way}_message_length", _LARGEST_MESSAGE) for way in ("send", "receive")]
    server = grpc.server(ThreadPoolExecutor(max_workers=_CALLS_AT_ONCE), options=options)
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(AzureNative(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)

    # An engine that was killed cannot send a signal: being given to another parent is the only sign.
    while not asked_to_leave.wait(0.5) and os.getppid() == engine:
        pass
    server.stop(grace=None)
    # Requests under way must not hold the process; what they began is ARM's, and the next run finds it there.
    os._exit(0)


if __name__ == "__main__":
    main()
