"""The cloud that the release's clients talk to is the one its metadata names."""

from infra.release.cloud import Cloud

WORKSPACE = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/mlw"


def test_two_clouds_of_one_name_keep_their_own_addresses_in_one_process() -> None:
    addresses = ["https://127.0.0.1:1", "https://127.0.0.1:2"]
    clouds = [Cloud("Sandbox", address, f"{address}/login", address, "suffix") for address in addresses]
    assert [cloud.machine_learning(WORKSPACE)._base_url for cloud in clouds] == addresses
