"""The stack that the engine checks: whether it is a production stack.

The engine sends a pack the stack's configuration before the first resource (`ConfigureStack`). No public interface of
the SDK passes it on: `PolicyPack` creates its servicer itself and takes none, the servicer keeps only the tags of that
message, `get_config` of a rule returns the pack's own configuration, and the variable PULUMI_CONFIG, which the SDK
reads, is set only for a pack without a language plugin. So `remember_configuration` replaces the SDK's private servicer
by a subclass that also keeps the setting; `tests/policy/test_engine.py` notices an SDK without that class. Does not
read any other setting: rules check the properties of resources.

Source: pulumi/pulumi sdk/go/common/resource/plugin/analyzer_plugin.go (`NewPolicyAnalyzer`, `constructEnv`);
pulumi-policy==1.21.0 pulumi_policy/policy.py (`PolicyPack.__init__`, `_PolicyAnalyzerServicer.ConfigureStack`,
`_configure_runtime_settings`)
"""

from collections.abc import Mapping
from typing import Any

from pulumi_policy import policy

PRODUCTION = "personalization:production"
_settings: dict[str, str] = {}


def remember_configuration() -> None:
    """Let packs that are created afterwards keep the setting that the engine sends."""

    class Servicer(policy._PolicyAnalyzerServicer):
        def ConfigureStack(self, request: Any, context: Any) -> Any:
            configure(request.config)
            return super().ConfigureStack(request, context)

    policy._PolicyAnalyzerServicer = Servicer  # type: ignore[misc]


def configure(config: Mapping[str, Any]) -> None:
    """Keep the setting of a flat config, such as `{"personalization:production": "true"}`."""
    _settings.clear()
    if PRODUCTION in config:
        _settings[PRODUCTION] = str(config[PRODUCTION])


def is_production() -> bool:
    """Return False only if the stack is configured as not production.

    A stack without the setting is held to the stricter rules. This program refuses such a stack; another program that
    uses the pack may not know the setting.
    """
    return _settings.get(PRODUCTION) != "false"
