"""Settings of earlier releases: those with a new name, which still work, and those that no longer exist.

Does not read Pulumi's configuration or a stack file: `loading.py` and `cli/stacks/files.py` do.
"""

from collections.abc import Collection, Mapping

RENAMED = {
    "alerts:missing_share": "alerts:featureless_share",
    "budget:steps": "budget:thresholds_percent",
    "quality:commonest_probability_max": "quality:mode_share_max",
    "release:drift_max": "release:prediction_shift_max",
    "release:rollout": "release:traffic_steps",
    "training:data": "training:local_data",
    "training:interactive_minutes": "training:autotermination_minutes",
}
"""Former names of settings, each with the present name. This release accepts them with a warning, the next does not."""
REMOVED = {
    "budget:start": "The budget starts in the month of the first `up`.",
    "serving:tls_secret": "Set serving:tls_certificate and serving:tls_key: Azure ML creates the secret from them.",
}
"""Settings that no longer exist, each with its replacement."""


def in_use(keys: Collection[str]) -> dict[str, str]:
    """Return the present name by each former name in `keys`, without settings that have both names there."""
    return {former: key for former, key in RENAMED.items() if former in keys and key not in keys}


def set_twice(keys: Collection[str]) -> dict[str, str]:
    """Return the present name by each former name in `keys` whose present name is there too."""
    return {former: key for former, key in RENAMED.items() if former in keys and key in keys}


def with_present_names(config: Mapping[str, str]) -> dict[str, str]:
    """Return `config` with present names instead of former ones. A value under the present name has priority."""
    former, twice = in_use(config), set_twice(config)
    return {former.get(key, key): text for key, text in config.items() if key not in twice}


def deprecations(config: Collection[str]) -> list[str]:
    """Return a message for each former name in `config`, unless the setting has its present name there too."""
    return [
        f"{former}: is now named {key}; the next release does not accept the former name. Rename it in the stack file."
        for former, key in in_use(config).items()
    ]
