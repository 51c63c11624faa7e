"""The pack as the engine starts it. Building it serves it, so everything that can be imported is in `rules.py`."""

from pulumi_policy import EnforcementLevel, PolicyPack

from policy.rules import POLICIES

PolicyPack("personalization", list(POLICIES), EnforcementLevel.MANDATORY)
