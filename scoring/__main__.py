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
"""Objects. The usual 700 are fewer than one large request has, and it would be gone through again and again."""

_GRACE_SECONDS = 1.0
"""Time in which a service that still runs Python reports by itself that it did not start."""


def engine_for(settings: Settings, artefact: Artefact) -> Engine:
    if settings.engine == "spark":
        from scoring.engines.spark_serving import SparkServingEngine

        return SparkServingEngine(settings, artefact)
    from scoring.engines.native import NativeEngine

    return NativeEngine(artefact)


def listen(settings: Settings) -> socket.socket:
    """Taken before the model is loaded, so that a wrong address shows at once; connections are accepted only later."""
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError as error:
        where = f"SCORING_HOST={settings.host} SCORING_PORT={settings.port}"
        raise SettingsError(f"{where}: {error.strerror}; choose another port or address") from None
    return listener


def main() -> int:
    configure()
    try:
        settings = Settings.from_environment()
        listener = listen(settings)
        # A damaged model.txt can keep LightGBM busy for ever, and Python with it. This needs no Python to run.
        faulthandler.dump_traceback_later(settings.warm_up_seconds + _GRACE_SECONDS, exit=True)
        artefact = open_artefact(settings.model_dir)
        service = Service(settings, artefact, engine_for(settings, artefact))
    except SettingsError as error:
        event(log, logging.CRITICAL, str(error))
        return 2
    except (ArtefactError, ContractError) as error:
        event(log, logging.CRITICAL, str(error))
        return 1
    # What is loaded by now stays: the collector need not go through it again and again. What a request leaves behind is
    # let go without it.
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
    # The loop accepts one connection per socket and round, and a round of an overloaded service takes tens of
    # milliseconds: with one socket, a crowd of new clients would wait for seconds.
    Server(application(service, document), service).run(sockets=[listener, *(listener.dup() for _ in range(31))])
    if service.failure:
        event(log, logging.CRITICAL, service.failure)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
