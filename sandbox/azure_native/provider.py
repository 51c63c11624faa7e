"""The azure-native provider of a sandbox: serves the Pulumi engine with requests to ARM.

Behaves like the genuine provider in everything that a program can observe: checks, automatic names and locations,
replacements, previews, drift. Has the types of `resource_types.yaml` that have a token. Works only with the cloud of
`ARM_METADATA_HOSTNAME`, and does not replace the genuine provider on Azure itself.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import grpc
import jwt
from google.protobuf import any_pb2, json_format
from google.protobuf.empty_pb2 import Empty
from google.protobuf.struct_pb2 import Struct
from pulumi.runtime.proto import plugin_pb2, provider_pb2_grpc, status_pb2
from pulumi.runtime.proto import provider_pb2 as proto

from sandbox.azure_native import checks
from sandbox.azure_native.client import ArmClient, ArmError, OperationFailed
from sandbox.azure_native.difference import difference, drifted
from sandbox.azure_native.resource_type import ResourceType, by_token
from sandbox.azure_native.shape import Properties

VERSION = "3.29.0"
_HOW_TO_ADD = "add it to sandbox/arm/resource_types.yaml, whose first lines describe how."
# Source: pulumi/pulumi-azure-native provider/pkg/provider/auth_azidentity.go
_SETTINGS = {
    "metadataHost": "ARM_METADATA_HOSTNAME",
    "subscriptionId": "ARM_SUBSCRIPTION_ID",
    "tenantId": "ARM_TENANT_ID",
    "clientId": "ARM_CLIENT_ID",
    "clientSecret": "ARM_CLIENT_SECRET",
    "location": "ARM_LOCATION",
}


class Refused(Exception):
    """An error that the user can correct."""


def _answered(method: Callable[..., Any]) -> Callable[..., Any]:
    """Report an error of the cloud or the user by its message alone. The provider's own errors keep their traceback."""

    @functools.wraps(method)
    def call(self: "AzureNative", request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return method(self, request, context)
        except (ArmError, Refused) as error:
            context.abort(grpc.StatusCode.UNKNOWN, str(error))

    return call


class AzureNative(provider_pb2_grpc.ResourceProviderServicer):
    def __init__(self) -> None:
        self._settings: dict[str, str] = {}
        self._arm = ArmClient({})

    # --- the plugin

    def Handshake(self, request: Any, context: grpc.ServicerContext) -> Any:
        return proto.ProviderHandshakeResponse(supports_autonaming_configuration=True)

    def Attach(self, request: Any, context: grpc.ServicerContext) -> Empty:
        return Empty()

    def GetPluginInfo(self, request: Any, context: grpc.ServicerContext) -> Any:
        return plugin_pb2.PluginInfo(version=VERSION)

    def CheckConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        return proto.CheckResponse(inputs=request.news)

    def DiffConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        return proto.DiffResponse(changes=proto.DiffResponse.DIFF_NONE)

    @_answered
    def Configure(self, request: Any, context: grpc.ServicerContext) -> Any:
        given = {key.rpartition(":")[2]: value for key, value in request.variables.items()}
        self._settings = {
            name: value
            for name, variable in _SETTINGS.items()
            if (value := given.get(name) or os.environ.get(variable))
        }
        if "metadataHost" not in self._settings:
            raise Refused(
                "this azure-native is the sandbox's stand-in and works with no other cloud: set ARM_METADATA_HOSTNAME "
                "to a running sandbox, or remove its folder from PATH for the genuine one."
            )
        self._arm = ArmClient(self._settings)
        return proto.ConfigureResponse(supportsPreview=True, supports_autonaming_configuration=True)

    def Cancel(self, request: Any, context: grpc.ServicerContext) -> Empty:
        self._arm.cancelled.set()
        return Empty()

    # --- resources

    @_answered
    def Check(self, request: Any, context: grpc.ServicerContext) -> Any:
        kind = _kind(request)
        inputs = checks.with_defaults(kind, request, _read(request.olds), _read(request.news), self._locate)
        failures = [proto.CheckFailure(reason=reason) for reason in checks.failures(kind, inputs)]
        return proto.CheckResponse(inputs=_struct(inputs), failures=failures)

    @_answered
    def Diff(self, request: Any, context: grpc.ServicerContext) -> Any:
        return difference(_kind(request), _read(request.old_inputs), _read(request.news), request.ignoreChanges)

    @_answered
    def Create(self, request: Any, context: grpc.ServicerContext) -> Any:
        kind, inputs = _kind(request), _read(request.properties)
        if request.preview:
            return proto.CreateResponse(properties=_struct(_previewed(kind, inputs)))
        address = kind.address(inputs, self._subscription)
        if not kind.singleton and self._arm.get(address, kind.api_version) is not None:
            raise Refused(f"cannot create already existing resource '{address}'")
        body = self._write(kind, address, inputs, context)
        return proto.CreateResponse(id=body["id"], properties=_struct(_outputs(kind, body)))

    @_answered
    def Update(self, request: Any, context: grpc.ServicerContext) -> Any:
        kind, inputs = _kind(request), _read(request.news)
        if request.preview:
            stable = {key: value for key, value in _read(request.olds).items() if key in ("name", "location")}
            return proto.UpdateResponse(properties=_struct(_previewed(kind, inputs) | stable))
        body = self._write(kind, request.id, inputs, context)
        return proto.UpdateResponse(properties=_struct(_outputs(kind, body)))

    @_answered
    def Read(self, request: Any, context: grpc.ServicerContext) -> Any:
        kind = _kind(request)
        body = self._arm.get(request.id, kind.api_version)
        if body is None:
            return proto.ReadResponse()
        before, inputs = _read(request.properties), _read(request.inputs)
        after = _outputs(kind, body)
        if inputs:
            inputs = drifted(inputs, kind.shape.as_inputs(before, inputs), kind.shape.as_inputs(after, inputs))
        else:
            named = kind.inputs_in(request.id)
            inputs = {**kind.shape.as_inputs(after, named), **named, "azureApiVersion": kind.api_version}
        return proto.ReadResponse(id=request.id, properties=_struct(after), inputs=_struct(inputs))

    @_answered
    def Delete(self, request: Any, context: grpc.ServicerContext) -> Empty:
        kind = _kind(request)
        if not kind.singleton:
            self._arm.delete(request.id, kind.api_version)
        elif self._arm.get(request.id, kind.api_version) is not None:
            self._arm.put(request.id, kind.api_version, {"properties": {}}, {})
        return Empty()

    @_answered
    def Invoke(self, request: Any, context: grpc.ServicerContext) -> Any:
        if request.tok == "azure-native:authorization:getClientConfig":
            claims = jwt.decode(self._arm.token(), options={"verify_signature": False})
            who = {"clientId": claims.get("appid", ""), "objectId": claims["oid"], "tenantId": claims["tid"]}
            return proto.InvokeResponse(**{"return": _struct({**who, "subscriptionId": self._subscription})})
        raise Refused(f"the function {request.tok} is not offered by the sandbox's azure-native")

    # --- shared

    @property
    def _subscription(self) -> str:
        try:
            return self._settings["subscriptionId"]
        except KeyError:
            raise Refused("no subscription: set azure-native:subscriptionId or ARM_SUBSCRIPTION_ID") from None

    def _locate(self, group: str) -> str | None:
        """The configured location, else the resource group's; None if neither can be read."""
        if "location" in self._settings or not group:
            return self._settings.get("location")
        known = by_token()["azure-native:resources:ResourceGroup"]
        try:
            address = known.address({"resourceGroupName": group}, self._subscription)
            body = self._arm.get(address, known.api_version)
        except (ArmError, Refused):
            return None
        return body["location"] if body else None

    def _write(self, kind: ResourceType, address: str, inputs: Properties, context: grpc.ServicerContext) -> Properties:
        query = {name: str(inputs[name]).lower() for name in kind.query_inputs if name in inputs}
        failure = None
        try:
            self._arm.put(address, kind.api_version, kind.body(inputs), query)
        except OperationFailed as error:
            failure = error
        body = self._arm.get(address, kind.api_version)
        if body is None:
            raise failure or Refused(f"resource '{address}' was written and then not found")
        if failure is not None:
            _abort_half_made(context, body["id"], _struct(_outputs(kind, body)), str(failure))
        return body


def _kind(request: Any) -> ResourceType:
    token = request.type or request.urn.split("::")[2].rpartition("$")[2]
    try:
        return by_token()[token]
    except KeyError:
        raise Refused(f"{token} is not in the sandbox's azure-native: {_HOW_TO_ADD}") from None


def _previewed(kind: ResourceType, inputs: Properties) -> Properties:
    shared = {key: inputs[key] for key in ("name", "azureApiVersion") if key in inputs}
    return kind.shape.preview(kind.own(inputs) | shared)


def _outputs(kind: ResourceType, body: Properties) -> Properties:
    return {**kind.shape.outputs(body), "azureApiVersion": kind.api_version}


def _abort_half_made(context: grpc.ServicerContext, address: str, outputs: Struct, reason: str) -> None:
    """Fail, but let the engine keep the resource in its state, because it exists: the next `up` updates it."""
    detail = any_pb2.Any()
    detail.Pack(proto.ErrorResourceInitFailed(id=address, properties=outputs, reasons=[reason]))
    code = grpc.StatusCode.UNKNOWN
    status = status_pb2.Status(code=code.value[0], message=reason, details=[detail])
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, reason)


def _struct(properties: Properties) -> Struct:
    return json_format.ParseDict(properties, Struct())


def _read(struct: Struct) -> Properties:
    properties: Properties = _plain(json_format.MessageToDict(struct))
    return properties


def _plain(value: Any) -> Any:
    """The value with whole numbers as integers, as ARM requires, and without nulls, which Pulumi treats as absent."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
