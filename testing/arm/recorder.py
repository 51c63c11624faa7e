"""The azure-native stand-in with a recorder: a program that writes each request to ARM and its answer to a file."""

import json
import os
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

RECORD = "ARM_RECORD"
"""Variable with the path of the file. It has one exchange per line: method, URL, body, status, answer."""


def serve_and_record() -> None:
    import requests

    from sandbox.azure_native.__main__ import main

    send = requests.Session.send

    def recording(session: requests.Session, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        answer = send(session, request, **options)
        if urlsplit(request.url or "").path.lower().startswith(("/subscriptions", "/providers")):
            body = request.body.decode() if isinstance(request.body, bytes) else request.body
            line = json.dumps([request.method, request.url, body, answer.status_code, answer.text]) + "\n"
            # Unbuffered, so that lines of parallel calls are not mixed.
            with open(os.environ[RECORD], "ab", buffering=0) as record:
                record.write(line.encode())
        return answer

    with mock.patch.object(requests.Session, "send", recording):
        main()


if __name__ == "__main__":
    serve_and_record()
