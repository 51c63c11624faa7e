"""A live model in a sandbox: an endpoint with its deployments, and model versions that name their training runs.

The resources are written into the store directly, so no scoring process runs.
"""

from collections.abc import Mapping

from testing.sandbox.data import Served

ML_WORKSPACE = "Microsoft.MachineLearningServices/workspaces/mlw"


def ml_workspace_id(cloud: Served) -> str:
    return f"{cloud.group}/providers/{ML_WORKSPACE}"


def put_endpoint(cloud: Served, name: str, traffic: Mapping[str, int], runs: Mapping[str, str]) -> None:
    """Write an endpoint whose deployment `m<version>` has that version of the model `clicks`.

    traffic: percent by deployment. runs: training run by version; other versions are not in the registry.
    """
    workspace, endpoint = ml_workspace_id(cloud), f"{ML_WORKSPACE}/onlineEndpoints/{name}"
    compute = f"{workspace}/computes/serving"
    home = {"location": "westeurope"}
    cloud.put(endpoint, properties={"authMode": "Key", "compute": compute, "traffic": dict(traffic)}, **home)
    for deployment in traffic:
        version = deployment.removeprefix("m")
        cloud.put(
            f"{endpoint}/deployments/{deployment}",
            properties={
                "endpointComputeType": "Kubernetes",
                "model": f"{workspace}/models/clicks/versions/{version}",
                "containerResourceRequirements": {},
                "scaleSettings": {"scaleType": "Default"},
                "environmentVariables": {"MODEL_NAME": "clicks", "MODEL_VERSION": version},
            },
            tags={"model_version": version},
            **home,
        )
    for version, run_id in runs.items():
        path = f"azureml://datastores/lake/paths/{run_id}"
        properties = {"modelUri": path, "modelType": "custom_model", "flavors": {}, "tags": {"run_id": run_id}}
        cloud.put(f"{ML_WORKSPACE}/models/clicks/versions/{version}", properties=properties)
