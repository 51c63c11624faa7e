"""Serves the provider to the engine that started it: prints a port, and ends on a signal or after the engine."""

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
    terminated = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: terminated.set())

    options = [(f"grpc.max_{way}_message_length", _LARGEST_MESSAGE) for way in ("send", "receive")]
    server = grpc.server(ThreadPoolExecutor(max_workers=_CALLS_AT_ONCE), options=options)
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(AzureNative(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)

    # A killed engine sends no signal: then only the new parent process id shows its end.
    while not terminated.wait(0.5) and os.getppid() == engine:
        pass
    server.stop(grace=None)
    # Running requests must not delay the end. ARM continues their operations, and the next run finds the results.
    os._exit(0)


if __name__ == "__main__":
    main()
