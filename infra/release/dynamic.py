"""The base of every dynamic resource: which inputs replace it, which update it, and what holds for each provider.

The engine drops inputs that are `None` (pulumi/pulumi `sdk/python/lib/pulumi/runtime/rpc.py`, `serialize_properties`),
so every provider receives all inputs that it declares, with `None` for an absent one. Does not talk to a cloud: each
provider does.
"""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import pulumi
from pulumi.dynamic import DiffResult, ReadResult, ResourceProvider, UpdateResult
from pulumi.runtime import rpc


class ProviderError(Exception):
    """A built-in error inside a provider. The engine prints only the text of an error, for a KeyError the bare key."""


class ReleaseProvider(ResourceProvider):
    inputs: ClassVar[tuple[str, ...]] = ()
    """Inputs that are compared; a change of one not in `identity` is an update."""
    identity: ClassVar[tuple[str, ...]] = ()
    """Inputs that make another thing: a change replaces. One that ends with `_uid` is an id that Azure gives a parent
    when it creates it; a parent that is deleted and created again under its resource id has another one."""
    optional: ClassVar[tuple[str, ...]] = ()
    """Inputs that may be absent and are not compared."""
    # State holds no secret of ours; a secret provider would cost a decryption per resource.
    serialize_as_secret_always = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in ("create", "read", "update", "delete"):
            if name in vars(cls):
                setattr(cls, name, _guarded(vars(cls)[name]))

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        changed = [key for key in (*self.identity, *self.inputs) if olds.get(key) != news.get(key)]
        # azure-native knows no computed value in the preview of an update (pulumi/pulumi-azure-native
        # provider/pkg/provider/provider.go, `Update`). A parent that is created again has an unknown id, too.
        changed = [key for key in changed if not (key.endswith("_uid") and news.get(key) == rpc.UNKNOWN)]
        # State of an earlier version holds no such id: it is recorded, and nothing is made again.
        unrecorded = {key for key in changed if key.endswith("_uid") and olds.get(key) is None}
        replaces = [key for key in changed if key in self.identity and key not in unrecorded]
        return DiffResult(changes=bool(changed), replaces=replaces, delete_before_replace=False)

    def update(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        """Record the new inputs. A provider whose object can be changed does more."""
        return UpdateResult({**olds, **news})


def gone() -> ReadResult:
    """The answer of `read` for an object that does not exist: a refresh removes it from the state, `up` creates it.

    The engine takes an empty id for that (pulumi/pulumi sdk/go/common/resource/plugin/provider_plugin.go, `Read`).
    """
    return ReadResult("", {})


def _is_refusal(error: Exception) -> bool:
    """Whether a service refused the login or its right: HTTP 401 or 403 in the words of each SDK."""
    status = getattr(error, "status_code", None) or getattr(getattr(error, "response", None), "status_code", None)
    return status in (401, 403) or type(error).__name__ in ("PermissionDenied", "Unauthenticated")


def _guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    """The provider's method with every declared input present, and with errors that keep their type."""

    @functools.wraps(method)
    def call(self: ReleaseProvider, *given: Any) -> Any:
        absent = dict.fromkeys((*self.identity, *self.inputs, *self.optional))
        try:
            return method(self, *({**absent, **each} if isinstance(each, dict) else each for each in given))
        except Exception as error:
            if method.__name__ == "read" and _is_refusal(error):
                # Who may only look at the infrastructure (drift.yml) can still preview it.
                where = type(self).__name__.strip("_")
                pulumi.log.warn(f"{where} {given[0]} was not read, because the login may not: {error}")
                return ReadResult(given[0], given[1])
            if type(error).__module__ != "builtins":
                raise
            where = f"{type(self).__name__.strip('_')}.{method.__name__}"
            raise ProviderError(f"{where}: {type(error).__name__}: {error}") from error

    return call
