"""The base of every dynamic resource: which inputs replace it, which update it, and what holds for each provider.

The engine drops inputs that are `None` (pulumi/pulumi `sdk/python/lib/pulumi/runtime/rpc.py`, `serialize_properties`),
so every provider receives all inputs that it declares, with `None` for an absent one. Does not talk to a cloud: each
provider does.
"""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

from pulumi.dynamic import DiffResult, ResourceProvider


class ProviderError(Exception):
    """A built-in error inside a provider. The engine prints only the text of an error, for a KeyError the bare key."""


class ReleaseProvider(ResourceProvider):
    inputs: ClassVar[tuple[str, ...]] = ()
    """Inputs that are compared; a change of one not in `identity` is an update."""
    identity: ClassVar[tuple[str, ...]] = ()
    """Inputs that make another thing: a change replaces."""
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
        replaces = [key for key in changed if key in self.identity]
        return DiffResult(changes=bool(changed), replaces=replaces, delete_before_replace=False)


def _guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    """The provider's method with every declared input present, and with errors that keep their type."""

    @functools.wraps(method)
    def call(self: ReleaseProvider, *given: Any) -> Any:
        absent = dict.fromkeys((*self.identity, *self.inputs, *self.optional))
        try:
            return method(self, *({**absent, **each} if isinstance(each, dict) else each for each in given))
        except Exception as error:
            if type(error).__module__ != "builtins":
                raise
            where = f"{type(self).__name__.strip('_')}.{method.__name__}"
            raise ProviderError(f"{where}: {type(error).__name__}: {error}") from error

    return call
