"""The pack as the engine starts it. `PolicyPack` serves until it is stopped, so the rules are in `rules.py`."""

from pulumi_policy import EnforcementLevel, PolicyPack

from policy import stack
from policy.rules import POLICIES

stack.remember_configuration()
PolicyPack("personalization", list(POLICIES), EnforcementLevel.MANDATORY)
