"""The live model, as Azure ML reports it."""

from types import SimpleNamespace
from typing import Any

import pytest
from azure.core.exceptions import ResourceNotFoundError

from infra.cloud import live_deployment


class Registry:
    """The part of `MLClient` that `live_model` uses."""

    def __init__(self, traffic: dict[str, int] | None, models: dict[tuple[str, str], str]) -> None:
        self.traffic, self.found = traffic, models
        self.online_endpoints = SimpleNamespace(get=self._endpoint)
        self.online_deployments = SimpleNamespace(get=self._deployment)
        self.models = SimpleNamespace(get=self._model)

    def _endpoint(self, name: str) -> Any:
        if self.traffic is None:
            raise ResourceNotFoundError(name)
        return SimpleNamespace(traffic=self.traffic)

    def _deployment(self, name: str, _endpoint: str) -> Any:
        return SimpleNamespace(environment_variables={"MODEL_NAME": "clicks"}, tags={"model_version": name[1:]})

    def _model(self, name: str, version: str) -> Any:
        if (name, version) not in self.found:
            raise ResourceNotFoundError(f"{name}:{version}")
        return SimpleNamespace(tags={"run_id": self.found[name, version]})


@pytest.mark.parametrize(
    ("traffic", "found"),
    [
        pytest.param({"m1": 10, "m2": 90}, live_deployment.LiveModel("m2", "run-of-2"), id="most traffic"),
        pytest.param({"m1": 0}, None, id="no traffic"),
        pytest.param({}, None, id="no deployment"),
        pytest.param(None, None, id="no endpoint"),
        pytest.param({"m3": 100}, live_deployment.LiveModel("m3", ""), id="its model version is gone"),
    ],
)
def test_live_model_is_that_of_the_deployment_with_the_most_traffic(
    traffic: dict[str, int] | None, found: live_deployment.LiveModel | None
) -> None:
    registry = Registry(traffic, {("clicks", "1"): "run-of-1", ("clicks", "2"): "run-of-2"})
    assert live_deployment.live_model(registry, "score") == found
    assert live_deployment.run_id(registry, "score") == (found.run_id if found else "")
