"""The base of every dynamic resource: inputs that replace it, inputs that update it, and rules for each provider.

The engine drops inputs that are `None` (pulumi/pulumi `sdk/python/lib/pulumi/runtime/rpc.py`, `serialize_properties`),
so every provider receives all inputs that it declares, with `None` for an absent one. Before a provider's first call
the SDKs are imported, by one thread. Each `create` gets an incarnation: `delete` skips an object that has another one
(`ownership.py`). Does not talk to a cloud: each provider does.
"""

import functools
import importlib
import os
import threading
import uuid
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import pulumi
from pulumi.dynamic import DiffResult, ReadResult, ResourceProvider, UpdateResult
from pulumi.output import Unknown
from pulumi.runtime import rpc

from infra.cloud.network_refusal import OutsideNetwork, network_refusal

# Packages that import their own submodules. Two threads that start with different submodules of one package deadlock
# (python/cpython#83065), so one thread imports each package before a provider runs.
_SDKS = (
    *("azure.identity", "azure.storage.blob", "azure.mgmt.containerregistrytasks", "azure.ai.ml"),
    *("azure.ai.ml.entities", "databricks.sdk"),
)
_IMPORTING = threading.Lock()
INCARNATION = "incarnation"


def import_sdks() -> None:
    """Import the SDKs, which takes some 3 s of CPU once in a process. Not called in a preview or at import time."""
    with _IMPORTING:
        # Azure ML's SDK reads a cloud's name from here when it is imported, and refuses one that it does not know.
        os.environ.pop("AZUREML_CURRENT_CLOUD", None)
        for name in _SDKS:
            importlib.import_module(name)


class ProviderError(Exception):
    """A built-in error inside a provider. The engine prints only the text of an error, for a KeyError the bare key."""


class ReleaseProvider(ResourceProvider):
    inputs: ClassVar[tuple[str, ...]] = ()
    """Inputs that are compared; a change of one not in `identity` is an update."""
    identity: ClassVar[tuple[str, ...]] = ()
    """Inputs that identify the object: a change replaces it. One that ends with `_uid` is an id that Azure gives a
    parent at its creation; a parent that is deleted and created again under its resource id has another one."""
    optional: ClassVar[tuple[str, ...]] = ()
    """Inputs that are not compared; they may be absent."""
    # The inputs hold no secret; a secret provider would cost a decryption per resource.
    serialize_as_secret_always = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in ("create", "read", "update", "delete"):
            if name in vars(cls):
                setattr(cls, name, _guarded(vars(cls)[name]))

    def owns(self, _props: dict[str, Any]) -> bool:
        """Whether the object still belongs to this resource. If not, `delete` is not called."""
        return True

    def claim(self, _props: dict[str, Any]) -> None:
        """Record `props[INCARNATION]` for the object that `create` has made or adopted."""

    def forget(self, _props: dict[str, Any]) -> None:
        """Remove that record once the object is deleted."""

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        changed = [key for key in (*self.identity, *self.inputs) if olds.get(key) != news.get(key)]
        # azure-native knows no computed value in the preview of an update (pulumi/pulumi-azure-native
        # provider/pkg/provider/provider.go, `Update`). A parent that is created again has an unknown id, too.
        changed = [key for key in changed if not (key.endswith("_uid") and is_unknown(news.get(key)))]
        # The state of an earlier version has no such id: it is recorded, and nothing is replaced.
        unrecorded = {key for key in changed if key.endswith("_uid") and olds.get(key) is None}
        replaces = [key for key in changed if key in self.identity and key not in unrecorded]
        return DiffResult(changes=bool(changed), replaces=replaces, delete_before_replace=False)

    def update(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        """Record the new inputs. A provider whose object can be changed does more."""
        return UpdateResult({**olds, **news})


def is_unknown(value: Any) -> bool:
    """Whether a preview does not know the value yet: a string in a message, an object once Pulumi's SDK has read it."""
    return isinstance(value, Unknown) or value == rpc.UNKNOWN


def gone() -> ReadResult:
    """Result of `read` for an object that does not exist: a refresh removes it from the state, `up` creates it.

    The engine understands an empty id so (pulumi/pulumi sdk/go/common/resource/plugin/provider_plugin.go, `Read`).
    """
    return ReadResult("", {})


def _report_changes(result: ReadResult, before: dict[str, Any], declared: Iterable[str]) -> None:
    """Return the observed inputs to the engine, so that a preview after a refresh names each that differs."""
    if result.id and result.outs and any(result.outs.get(key) != before.get(key) for key in declared):
        result.inputs = {key: result.outs[key] for key in declared if result.outs.get(key) is not None}


def _is_refusal(error: Exception) -> bool:
    """Whether a service refused the login or its rights: HTTP 401 or 403 in the form of each SDK.

    Source: databricks-sdk==0.156.0 databricks/sdk/errors/platform.py
    """
    status = getattr(error, "status_code", None) or getattr(getattr(error, "response", None), "status_code", None)
    return status in (401, 403) or type(error).__name__ in ("PermissionDenied", "Unauthenticated")


def _guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a provider's method: every declared input is present, and the message of an error names its type."""
    name = method.__name__

    @functools.wraps(method)
    def call(self: ReleaseProvider, *args: Any) -> Any:
        import_sdks()
        absent = dict.fromkeys((*self.identity, *self.inputs, *self.optional))
        arguments = [{**absent, **each} if isinstance(each, dict) else each for each in args]
        try:
            if name == "create":
                arguments[0][INCARNATION] = uuid.uuid4().hex
            if name == "update":
                _, olds, news = arguments
                news[INCARNATION] = olds.get(INCARNATION)
            if name == "delete" and not self.owns(arguments[1]):
                return None
            result = method(self, *arguments)
            if name == "read":
                _report_changes(result, arguments[1], absent)
            if name == "create":
                self.claim(arguments[0])
            if name == "delete":
                self.forget(arguments[1])
            return result
        except Exception as error:
            outside, where = network_refusal(error), type(self).__name__.strip("_")
            if method.__name__ == "read" and (outside or _is_refusal(error)):
                # A login that may only read the infrastructure (drift.yml) can still preview it.
                reason = f"this machine is outside its network: {outside}" if outside else f"the login may not: {error}"
                pulumi.log.warn(f"{where} {args[0]} was not read, because {reason}")
                return ReadResult(args[0], args[1])
            where = f"{where}.{name}"
            if outside:
                raise OutsideNetwork(where, outside) from error
            if type(error).__module__ != "builtins":
                raise
            raise ProviderError(f"{where}: {type(error).__name__}: {error}") from error

    return call
