"""The base of every dynamic resource here: which inputs make a new thing, which update it, which outputs are secret."""

from typing import Any, ClassVar

from pulumi.dynamic import DiffResult, ResourceProvider


class ReleaseProvider(ResourceProvider):
    inputs: ClassVar[tuple[str, ...]] = ()
    """Inputs that are compared; a change of one not in `identity` is an update."""
    identity: ClassVar[tuple[str, ...]] = ()
    """Inputs that make another thing: a change replaces."""
    # State holds no secret of ours; a secret provider would cost a decryption per resource.
    serialize_as_secret_always = False

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        changed = [key for key in (*self.identity, *self.inputs) if olds.get(key) != news.get(key)]
        replaces = [key for key in changed if key in self.identity]
        return DiffResult(changes=bool(changed), replaces=replaces, delete_before_replace=False)
