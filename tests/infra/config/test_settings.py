"""Settings of a stack file: accepted values, and the messages for others."""

import pulumi
import pytest

from infra.config.former_names import RENAMED, deprecations
from infra.config.loading import ConfigError, load
from infra.config.settings import Settings
from infra.planning import capacity
from testing.certificates import pem
from testing.stack.infra_graph import REQUIRED, graph, settings


def test_text_from_pulumi_becomes_typed_values() -> None:
    found = settings(
        training__workers="3", release__traffic_steps="[5, 100]", release__model="12", access__purge_protection="false"
    )
    assert (found.training.workers, found.release.traffic_steps, found.release.model) == (3, [5, 100], 12)
    assert found.access.purge_protection is False


def test_purge_protection_is_described_as_the_vault_applies_it() -> None:
    described = Settings.model_json_schema()["$defs"]["AccessSettings"]["properties"]["purge_protection"]["description"]
    assert "true: nobody can purge a deleted vault before its retention of 30 days ends" in described
    for flag, protected in (("true", True), ("false", None)):
        (vault,) = graph(access__purge_protection=flag).of("keyvault:Vault")
        assert vault.inputs["properties"].get("enablePurgeProtection") is protected
        assert vault.inputs["properties"]["softDeleteRetentionInDays"] == 30


def test_day_without_quotes_is_read_as_text() -> None:
    assert settings(training__snapshot="2026-11-01 00:00:00 +0000 UTC").training.snapshot == "2026-11-01"


@pytest.mark.parametrize("key", ["pulumi:tags", "azure-native:subscriptionId", "kubernetes:context", "random:seed"])
def test_keys_of_providers_and_other_tools_are_ignored(key: str) -> None:
    assert settings(**{key: "x"}) == settings()


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("training__workers", "many", r"training:workers: .*valid integer.*'many'.*Fixed number of workers"),
        ("training__dataset", "netflix", r"training:dataset: no spec 'netflix'.*criteo.*movielens.*docs/own-dataset/"),
        ("azure-native__location", "westeuropa", r"azure-native:location: 'westeuropa' is not .*westeurope"),
        ("network__address_space", "10.40.0.0/25", r"network:address_space: 10.40.0.0/25 is too small.*10.40.0.0/20"),
        ("network__address_space", "172.16.0.0/12", r"network:address_space: .*too large.*at most a /16.*10.40.0.0/20"),
        ("network__address_space", "10.0.0.0/8", r"network:address_space: .*overlaps 10.244.0.0/16.*pods"),
        ("network__address_space", "52.0.0.0/16", r"network:address_space: .*is public"),
        ("network__address_space", "10.40.0.1/20", r"network:address_space: .*host bits set.*10.40.0.0/20"),
        ("network__authorized_ranges", '["everywhere"]', r"network:authorized_ranges: .*everywhere"),
        ("reliability__zones", '["4"]', r"reliability:zones.0: .*'1', '2' or '3'"),
        ("reliability__maintenance_hour", "24", r"reliability:maintenance_hour: .*less than or equal to 23"),
        (
            "access__deployers",
            '{"1": "Robot"}',
            r"access:deployers.1: .*'ServicePrincipal', 'User' or 'Group'.*'Robot'",
        ),
        ("tags__owner", '["a"]', r"tags:owner: .*valid string"),
        ("tags__Environment", "other", r"tags:Environment is the program's own tag environment.*another name"),
        ("tags__slash/and?percent%", "x", r"tags:slash/and\?percent%: <>.*Use tags:slash-and-percent-\."),
        ("tags__bell\a", "x", r"control characters may not be .*Use tags:bell-\."),
        (f"tags__{'n' * 129}", "x", r"at most 128 characters on a storage account, not 129"),
        ("tags__owner", "v" * 257, r"tags:owner: a tag's value has at most 256 characters, not 257"),
        ("tags__Azure-Owner", "x", r"tags:Azure-Owner: names that start with microsoft, azure, windows are reserved"),
        ("alerts__error_share", "5", r"alerts:error_share: .*less than 1"),
        ("budget__start", "2026-11-01", r"budget:start: is no longer a setting.*pulumi config rm budget:start"),
        ("budget__monthly", "500", r"budget:monthly is set, but alerts:emails is empty.*alerts:emails\[0\]"),
        ("personalization__generation", "0", r"personalization:generation: .*soft-deleted"),
        ("training__autotermination_minutes", "5", r"training:autotermination_minutes: .*greater than or equal to 10"),
        ("training__worker", "3", r"training:worker: is not a setting.*training has .*workers"),
        ("trainig__workers", "3", r"trainig:workers: no setting.* trainig. Did you mean training:workers"),
        ("acess__purge_protection", "false", r"acess:purge_protection: .*Did you mean access:purge_protection"),
        ("serving__engine", "gpu", r"serving:engine: .*'native' or 'spark'"),
        ("serving__nodes_min", "9", r"serving:nodes_min is 9, above serving:nodes_max 3.*Raise serving:nodes_max"),
        (
            "serving__tls_secret",
            "cert",
            r"serving:tls_secret: is no longer a setting.*pulumi config rm serving:tls_secret",
        ),
        (
            "serving__hostname",
            "a.example",
            r"serving:hostname, serving:tls_certificate and serving:tls_key must be set together",
        ),
        ("release__traffic_steps", "[50, 10]", r"release:traffic_steps .*must rise and end with 100"),
        ("release__model", "newest", r"release:model: "),
        ("personalization__environment", "Prod West", r"personalization:environment: .*pattern"),
        ("personalization__colour", "red", r"personalization:colour: is not a setting"),
        ("quality__auc_min", "0.4", r"quality:auc_min: .*greater than or equal to 0.5"),
        ("training__spark_version", "17.3.x-scala2.13", r"training:spark_version: .*16.4.x-scala2.12"),
        ("training__local_data", "/rows", r"training:snapshot and training:local_data both name the rows"),
    ],
)
def test_wrong_value_is_refused_with_key_rule_and_remedy(key: str, value: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        settings(**{key: value})


def test_all_errors_are_reported_together() -> None:
    with pytest.raises(ConfigError) as error:
        settings(training__workers="many", serving__engine="gpu", quality__auc_min="2")
    assert all(key in str(error.value) for key in ("training:workers", "serving:engine", "quality:auc_min"))


def test_spark_engine_gets_the_memory_of_its_jvm() -> None:
    assert settings(serving__engine="spark").serving.memory == "2000Mi"
    assert settings().serving.memory == "1Gi"
    with pytest.raises(ConfigError, match=r"serving:memory 1Gi is less .*spark needs. Set serving:memory to 1920Mi"):
        settings(serving__engine="spark", serving__memory="1Gi")


def refused_certificate(certificate: str, key: str, hostname: str = "scores.example.com") -> str:
    values = {"serving__hostname": hostname, "serving__tls_certificate": certificate, "serving__tls_key": key}
    with pytest.raises(ConfigError) as error:
        settings(**values)
    assert "PRIVATE" not in str(error.value), "the key is in the message"
    return str(error.value)


def test_certificate_that_azure_ml_would_refuse_is_refused() -> None:
    """Source: MicrosoftDocs/azure-ai-docs articles/machine-learning/how-to-troubleshoot-kubernetes-extension.md"""
    chain, key = pem("scores.example.com", "*.shop.example")
    _, other = pem("scores.example.com")
    assert "is not a PEM certificate" in refused_certificate("scores.pem", key)
    assert "is not a PEM private key" in refused_certificate(chain, "scores.key")
    assert "is not the key of the first certificate" in refused_certificate(chain, other)
    assert "other.example.com is not a name of" in refused_certificate(chain, key, "other.example.com")
    for name in ("scores.example.com", "a.shop.example"):
        assert (
            settings(serving__hostname=name, serving__tls_certificate=chain, serving__tls_key=key).serving.hostname
            == name
        )


def test_certificate_key_is_never_printed() -> None:
    chain, key = pem("scores.example.com")
    found = settings(serving__hostname="scores.example.com", serving__tls_certificate=chain, serving__tls_key=key)
    assert "PRIVATE" not in f"{found!r} {found} {found.model_dump()}"


@pytest.mark.parametrize(("memory", "heap"), [("2000Mi", "976m"), ("1920Mi", "896m")])
def test_heap_of_the_spark_engine_leaves_room_for_the_rest_of_its_replica(memory: str, heap: str) -> None:
    assert capacity.heap(settings(serving__engine="spark", serving__memory=memory).serving) == heap
    assert capacity.heap(settings().serving) is None


def test_spot_workers_are_refused_for_a_distributed_ring() -> None:
    with pytest.raises(ConfigError, match=r"ring stops if one of them is evicted\. Set training:spot to false"):
        settings(training__spot="true")


def test_release_without_rows_or_deployer_is_refused_with_the_remedies() -> None:
    without_rows = {key: value for key, value in REQUIRED.items() if key != "training:snapshot"}
    with pytest.raises(ConfigError, match=r"training:local_data.*training:snapshot.*release:enabled to false"):
        load(without_rows, "personalization")
    without_deployer = {key: value for key, value in REQUIRED.items() if key != "access:deployers"}
    with pytest.raises(ConfigError, match=r"access:deployers is empty.*pulumi config set --path"):
        load(without_deployer, "personalization")


def test_location_must_be_set() -> None:
    with pytest.raises(ConfigError, match="azure-native:location: must be set"):
        load({key: value for key, value in REQUIRED.items() if "location" not in key}, "personalization")


def test_production_must_be_set_with_one_of_two_commands() -> None:
    with pytest.raises(ConfigError) as error:
        load({key: value for key, value in REQUIRED.items() if "production" not in key}, "personalization")
    assert "personalization:production: must be set. Whether this is a production stack." in str(error.value)
    assert "Pulumi refuses to delete resources that hold data" in str(error.value)
    for value in ("true", "false"):
        assert f"pulumi config set personalization:production {value}" in str(error.value)


def test_environment_name_does_not_make_a_stack_production() -> None:
    live = settings(personalization__environment="live", personalization__production="true")
    assert (live.production, live.zone_redundant, live.serving.nodes_min) == (True, True, capacity.ROUTERS)
    named = settings(personalization__environment="prod")
    assert (named.production, named.zone_redundant, named.serving.nodes_min) == (False, False, 1)


VALUES = {
    "alerts:featureless_share": "0.1",
    "budget:thresholds_percent": "[80]",
    "quality:mode_share_max": "0.3",
    "release:prediction_shift_max": "0.3",
    "release:traffic_steps": "[5, 100]",
    "training:local_data": "first-rows",
    "training:autotermination_minutes": "60",
}
"""A value other than the default of each setting that has a former name."""


@pytest.mark.parametrize(("former", "present"), RENAMED.items())
def test_former_name_has_the_effect_of_the_current_one(former: str, present: str) -> None:
    enough = {key: value for key, value in REQUIRED.items() if key != "training:snapshot" or "local" not in present}
    given = load({**enough, former: VALUES[present]}, "personalization")
    assert given == load({**enough, present: VALUES[present]}, "personalization")
    group, _, name = present.partition(":")
    assert name in getattr(given, group).model_fields_set
    (warning,) = deprecations({**enough, former: VALUES[present]})
    assert warning.startswith(f"{former}: is now named {present}; the next release does not accept the former name")
    assert deprecations({**enough, present: VALUES[present]}) == []


@pytest.mark.parametrize(("former", "present"), RENAMED.items())
def test_setting_under_both_names_is_refused_with_the_one_to_remove(former: str, present: str) -> None:
    with pytest.raises(ConfigError) as error:
        settings(**{former: VALUES[present], present: VALUES[present]})
    assert f"{former}: is the former name of {present}, which is also set." in str(error.value)
    assert f"pulumi config rm {former}" in str(error.value)


def test_wrong_value_under_a_former_name_is_reported_with_both_names() -> None:
    with pytest.raises(ConfigError) as error:
        settings(release__rollout="[50, 10]")
    assert "release:traffic_steps [50, 10] must rise" in str(error.value)
    assert "release:rollout: is now named release:traffic_steps" in str(error.value)


def test_program_warns_of_a_former_name(monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(pulumi, "warn", warnings.append)
    steps = graph(release__rollout="[5, 100]").of(":Rollout")[0].inputs["rollout"]
    assert steps == [5, 100]
    assert [warning for warning in warnings if "release:rollout: is now named release:traffic_steps" in warning]


def test_renamed_limit_keeps_its_name_in_the_state() -> None:
    program = graph(quality__mode_share_max="0.3", release__prediction_shift_max="0.4")
    assert program.of(":ModelVersion")[0].inputs["floors"]["commonest_probability_max"] == 0.3
    assert program.of(":Rollout")[0].inputs["limits"]["drift_max"] == 0.4


def test_tags_that_azure_counts_as_one_or_as_too_many_are_refused() -> None:
    with pytest.raises(ConfigError, match="tags:owner and tags:Owner differ in case only"):
        settings(tags__Owner="a", tags__owner="b")
    assert len(settings(**{f"tags__t{number}": "x" for number in range(48)}).tags) == 48
    with pytest.raises(ConfigError, match=r"49 tags and the program's own 2 are more than the 50 .*Leave 1 out"):
        settings(**{f"tags__t{number}": "x" for number in range(49)})
