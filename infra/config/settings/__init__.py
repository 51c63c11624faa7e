"""All settings of a stack, validated and frozen before the first resource is declared.

Each config namespace has one module and one pydantic model: `training:workers` is `workers` in `training.py`, and
`Settings.training.workers`. `stack.py` has `Settings`, with the settings outside groups and the rules between groups.
Components do not read `pulumi.Config`; they get values as arguments. `docs/reference/configuration.md` is generated
from the fields: their descriptions, bounds and examples, and `rule` where a pattern or a validator holds the rule.

Does not read Pulumi's configuration or accept former names (`infra/config/loading.py`), does not build resource names
(`infra/config/naming.py`), and does not know Azure's own defaults.
"""

from infra.config.settings.alerts import AlertSettings
from infra.config.settings.budget import BudgetSettings
from infra.config.settings.fields import without_time
from infra.config.settings.quality import QualitySettings
from infra.config.settings.release import ReleaseSettings
from infra.config.settings.runner import RunnerSettings
from infra.config.settings.serving import ServingSettings
from infra.config.settings.stack import ENVIRONMENT, OF_THE_PROJECT, Settings
from infra.config.settings.training import TrainingSettings

__all__ = [
    "ENVIRONMENT",
    "OF_THE_PROJECT",
    "AlertSettings",
    "BudgetSettings",
    "QualitySettings",
    "ReleaseSettings",
    "RunnerSettings",
    "ServingSettings",
    "Settings",
    "TrainingSettings",
    "without_time",
]
