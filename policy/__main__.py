"""Entry point of the pack. Its construction starts a server, so everything else is in `rules.py`."""

from pulumi_policy import EnforcementLevel, PolicyPack

from policy import stack
from policy.rules import POLICIES

stack.remember_configuration()
PolicyPack("personalization", list(POLICIES), EnforcementLevel.MANDATORY)
