"""The live model, as Azure ML reports it."""

from collections.abc import Iterator

import pytest

from infra.cloud import live_deployment
from infra.cloud.clients import AzureClients
from testing.sandbox.data import Served
from testing.sandbox.databricks import trusted
from testing.sandbox.live_model import ml_workspace_id, put_endpoint
from testing.sandbox.process import in_environment


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with trusted(tmp_path_factory.mktemp("sandbox")) as running, in_environment(running.login):
        yield running


@pytest.mark.parametrize(
    ("endpoint", "traffic", "found"),
    [
        pytest.param("split", {"m1": 10, "m2": 90}, live_deployment.LiveModel("m2", "run-of-2"), id="most traffic"),
        pytest.param("idle", {"m1": 0}, None, id="no traffic"),
        pytest.param("empty", {}, None, id="no deployment"),
        pytest.param("missing", None, None, id="no endpoint"),
        pytest.param("gone", {"m3": 100}, live_deployment.LiveModel("m3", ""), id="its model version is gone"),
    ],
)
def test_live_model_is_that_of_the_deployment_with_the_most_traffic(
    cloud: Served, endpoint: str, traffic: dict[str, int] | None, found: live_deployment.LiveModel | None
) -> None:
    if traffic is not None:
        put_endpoint(cloud, endpoint, traffic, {"1": "run-of-1", "2": "run-of-2"})
    client = AzureClients.discover().machine_learning(ml_workspace_id(cloud))
    assert live_deployment.live_model(client, endpoint) == found
    assert live_deployment.run_id(client, endpoint) == (found.run_id if found else "")
