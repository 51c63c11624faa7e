"""The base of every dynamic resource's provider: comparison of the inputs, and rules for each call of the engine.

A provider implements `create_object`, `read_object`, `update_object` and `delete_object`, with the dataclasses of its
resource (`inputs.py`). The engine drops inputs that are `None` (pulumi/pulumi
`sdk/python/lib/pulumi/runtime/rpc.py`, `serialize_properties`), so a provider gets `None` for an absent one. Before a
provider's first call the SDKs are imported, by one thread. Each `create` gets an incarnation: `delete` skips an object
that has another one (`ownership.py`). Does not talk to a cloud: each provider does.
"""

import contextlib
import importlib
import os
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar, get_args

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, ResourceProvider, UpdateResult
from pulumi.output import Unknown
from pulumi.runtime import rpc

from infra.cloud.network_refusal import OutsideNetwork, network_refusal
from infra.dynamic.inputs import Change, Inputs, Outputs

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


InputsT = TypeVar("InputsT", bound=Inputs)
OutputsT = TypeVar("OutputsT", bound=Outputs)


@dataclass(frozen=True)
class Creation(Generic[OutputsT]):
    """Result of `create_object`."""

    id: str
    outputs: OutputsT


@dataclass(frozen=True)
class ResourceState(Generic[InputsT, OutputsT]):
    """A resource as the stack's state has it."""

    id: str
    inputs: InputsT
    outputs: OutputsT


class ReleaseProvider(ResourceProvider, Generic[InputsT, OutputsT]):
    """A subclass names its dataclasses: `class _JobProvider(ReleaseProvider[JobInputs, JobOutputs])`."""

    inputs: ClassVar[type[Inputs]]
    outputs: ClassVar[type[Outputs]]
    # The inputs hold no secret; a secret provider would cost a decryption per resource.
    serialize_as_secret_always = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.inputs, cls.outputs = get_args(vars(cls)["__orig_bases__"][0])

    def create_object(self, inputs: InputsT) -> Creation[OutputsT]:
        """Create the object, or find the one that an interrupted `up` has created. Every provider implements this."""
        raise NotImplementedError

    def read_object(self, state: ResourceState[InputsT, OutputsT]) -> InputsT | None:
        """Return the inputs with the values that the object has now; None if it does not exist."""
        return state.inputs

    def update_object(self, state: ResourceState[InputsT, OutputsT], inputs: InputsT) -> OutputsT:
        """Change the object. Without an implementation the state records the new inputs."""
        return state.outputs

    def delete_object(self, state: ResourceState[InputsT, OutputsT]) -> None:
        """Delete the object. Without an implementation it stays."""

    def owns(self, _inputs: InputsT) -> bool:
        """Whether the object still belongs to this resource. If not, `delete_object` is not called."""
        return True

    def claim(self, _inputs: InputsT) -> None:
        """Record the incarnation for the object that `create_object` has made or adopted."""

    def forget(self, _inputs: InputsT) -> None:
        """Remove that record once the object is deleted."""

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        compared = {name: change for name, change in self.inputs.changes().items() if change != Change.NOT_COMPARED}
        changed = [name for name in compared if olds.get(name) != news.get(name)]
        # azure-native knows no computed value in the preview of an update (pulumi/pulumi-azure-native
        # provider/pkg/provider/provider.go, `Update`). A parent that is created again has an unknown id, too.
        changed = [name for name in changed if not (name.endswith("_uid") and is_unknown(news.get(name)))]
        # The state of an earlier version has no such id: it is recorded, and nothing is replaced.
        unrecorded = {name for name in changed if name.endswith("_uid") and olds.get(name) is None}
        replaces = [name for name in changed if compared[name] == Change.REPLACES and name not in unrecorded]
        return DiffResult(changes=bool(changed), replaces=replaces, delete_before_replace=False)

    def create(self, props: dict[str, Any]) -> CreateResult:
        with self._errors_named("create"):
            inputs = self._inputs({**props, INCARNATION: uuid.uuid4().hex})
            created = self.create_object(inputs)
            self.claim(inputs)
            return CreateResult(created.id, {**props, **inputs.properties(), **created.outputs.properties()})

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        with self._errors_named("read"):
            state = self._state(id_, props)
            try:
                inputs = self.read_object(state)
            except Exception as error:
                if reason := _reason_unread(error):
                    # A login that may only read the infrastructure (drift.yml) can still preview it.
                    pulumi.log.warn(f"{self._name} {id_} was not read, because {reason}")
                    return ReadResult(id_, props)
                raise
            return _gone() if inputs is None else _read_result(props, state, inputs)

    def update(self, id_: str, olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        with self._errors_named("update"):
            state = self._state(id_, olds)
            inputs = self._inputs({**news, INCARNATION: state.inputs.incarnation})
            outputs = self.update_object(state, inputs)
            return UpdateResult({**news, **inputs.properties(), **outputs.properties()})

    def delete(self, id_: str, props: dict[str, Any]) -> None:
        with self._errors_named("delete"):
            state = self._state(id_, props)
            if self.owns(state.inputs):
                self.delete_object(state)
                self.forget(state.inputs)

    def _inputs(self, props: dict[str, Any]) -> InputsT:
        inputs: Any = self.inputs.of(props)
        return inputs

    def _state(self, id_: str, props: dict[str, Any]) -> ResourceState[InputsT, OutputsT]:
        outputs: Any = self.outputs.of(props)
        return ResourceState(id_, self._inputs(props), outputs)

    @property
    def _name(self) -> str:
        return type(self).__name__.strip("_")

    @contextlib.contextmanager
    def _errors_named(self, method: str) -> Iterator[None]:
        """Import the SDKs, and let the message of an error name its type and the provider's method."""
        import_sdks()
        try:
            yield
        except Exception as error:
            where = f"{self._name}.{method}"
            if outside := network_refusal(error):
                raise OutsideNetwork(where, outside) from error
            if type(error).__module__ != "builtins":
                raise
            raise ProviderError(f"{where}: {type(error).__name__}: {error}") from error


def is_unknown(value: Any) -> bool:
    """Whether a preview does not know the value yet: a string in a message, an object once Pulumi's SDK has read it."""
    return isinstance(value, Unknown) or value == rpc.UNKNOWN


def _gone() -> ReadResult:
    """Result of `read` for an object that does not exist: a refresh removes it from the state, `up` creates it.

    The engine understands an empty id so (pulumi/pulumi sdk/go/common/resource/plugin/provider_plugin.go, `Read`).
    """
    return ReadResult("", {})


def _read_result(props: dict[str, Any], state: ResourceState[Any, Any], inputs: Inputs) -> ReadResult:
    """Return changed inputs to the engine as inputs, too, so that a preview after a refresh names each that differs."""
    outs = {**props, **inputs.properties(), **state.outputs.properties()}
    if inputs == state.inputs:
        return ReadResult(state.id, outs)
    return ReadResult(state.id, outs, {name: value for name, value in inputs.declared().items() if value is not None})


def _reason_unread(error: Exception) -> str:
    """Reason why the object cannot be read from here: the network, or the rights of the login; empty for another error.

    A refused login is HTTP 401 or 403 in the form of each SDK.
    Source: databricks-sdk==0.156.0 databricks/sdk/errors/platform.py
    """
    if outside := network_refusal(error):
        return f"this machine is outside its network: {outside}"
    status = getattr(error, "status_code", None) or getattr(getattr(error, "response", None), "status_code", None)
    refused = status in (401, 403) or type(error).__name__ in ("PermissionDenied", "Unauthenticated")
    return f"the login may not: {error}" if refused else ""
