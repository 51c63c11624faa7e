"""`python -m scoring`: serve the artefact in AZUREML_MODEL_DIR.

Exit code 2 for a wrong setting, 1 for a model that cannot be served.
"""

import faulthandler
import gc
import logging
import socket
import sys

import msgspec

from scoring import openapi
from scoring.artefact import Artefact, ArtefactError, open_artefact
from scoring.contract import ContractError
from scoring.engines import Engine
from scoring.logs import configure, event
from scoring.server import Server, Service, application
from scoring.settings import Settings, SettingsError

log = logging.getLogger("scoring")
_COLLECT_AFTER = 50_000
"""New objects before the garbage collector runs. One large request makes more than Python's default of 700, so the
collector would run several times in each."""

_GRACE_SECONDS = 1.0
"""Time after the warm-up limit in which the service can still report the failure itself. Then the process is ended."""


def engine_for(settings: Settings, artefact: Artefact) -> Engine:
    if settings.engine == "spark":
        from scoring.engines.spark_serving import SparkServingEngine

        return SparkServingEngine(settings, artefact)
    from scoring.engines.native import NativeEngine

    return NativeEngine(artefact)


def listen(settings: Settings) -> socket.socket:
    """Bind the service's address. Raises `SettingsError` if that fails.

    Called before the model is loaded, so that a wrong address is reported immediately. The server accepts connections
    only when it runs.
    """
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError as error:
        address = f"SCORING_HOST={settings.host} SCORING_PORT={settings.port}"
        raise SettingsError(f"{address}: {error.strerror}; choose another port or address") from None
    return listener


def main() -> int:
    configure()
    try:
        settings = Settings.from_environment()
        listener = listen(settings)
        # A damaged model.txt can block LightGBM forever, and with it the interpreter. This timer is a C thread and
        # ends the process all the same.
        faulthandler.dump_traceback_later(settings.warm_up_seconds + _GRACE_SECONDS, exit=True)
        artefact = open_artefact(settings.model_dir)
        service = Service(settings, artefact, engine_for(settings, artefact))
    except SettingsError as error:
        event(log, logging.CRITICAL, str(error))
        return 2
    except (ArtefactError, ContractError) as error:
        event(log, logging.CRITICAL, str(error))
        return 1
    # Objects loaded so far live as long as the process, so the collector need not scan them. The objects of a request
    # form no reference cycles and are freed without it.
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)
    document = msgspec.json.encode(openapi.document(artefact.contract, service.parser.types))
    event(
        log,
        logging.INFO,
        "listening",
        host=settings.host,
        port=settings.port,
        engine=settings.engine,
        model=settings.model,
    )
    # The event loop accepts one connection per socket and iteration. Under overload an iteration takes tens of
    # milliseconds, so with a single socket many clients that connect at once would wait for seconds.
    Server(application(service, document), service).run(sockets=[listener, *(listener.dup() for _ in range(31))])
    if service.failure:
        event(log, logging.CRITICAL, service.failure)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
