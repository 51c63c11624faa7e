"""Azure CLI commands that outputs and messages print; each works on a plain installation, without extension `ml`.

`az rest` accepts a resource id as the URL and prefixes it with the current cloud's Azure Resource Manager.
Source: Azure/azure-cli src/azure-cli-core/azure/cli/core/util.py (`send_raw_request`)
"""

import json
import shlex

# Source: pulumi_azure_native==3.29.0 pulumi_azure_native/machinelearningservices/list_online_endpoint_keys.py
_API_VERSION = "2025-06-01"


def endpoint_key(workspace_id: str, endpoint: str, auth_mode: str) -> str:
    """Print the key that callers send, or with `auth_mode` `AMLToken` a token that expires after some hours."""
    action, field = ("token", "accessToken") if auth_mode == "AMLToken" else ("listKeys", "primaryKey")
    return _rest("post", f"{workspace_id}/onlineEndpoints/{endpoint}/{action}", output=field)


def deployment_logs(workspace_id: str, endpoint: str, deployment: str, *, lines: int = 200) -> str:
    """Print the last `lines` log lines of a deployment's container."""
    path = f"{workspace_id}/onlineEndpoints/{endpoint}/deployments/{deployment}/getLogs"
    return _rest("post", path, body={"containerType": "InferenceServer", "tail": lines}, output="content")


def purge_workspace(workspace_id: str) -> str:
    """Delete an Azure ML workspace permanently, also a soft-deleted one."""
    return _rest("delete", workspace_id, query="&forceToPurge=true")


def _rest(method: str, path: str, *, query: str = "", body: dict[str, object] | None = None, output: str = "") -> str:
    words = ["az", "rest", "--method", method, "--url", f"{path}?api-version={_API_VERSION}{query}"]
    words += ["--body", json.dumps(body)] if body else []
    words += ["--query", output, "--output", "tsv"] if output else []
    return shlex.join(words)
