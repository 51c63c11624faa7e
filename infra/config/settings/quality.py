"""Settings `quality:`: limits of the rules that a candidate must pass."""

from pydantic import Field

from infra.config.settings.fields import Group

STATE_NAMES = {"mode_share_max": "commonest_probability_max"}
"""Names of limits in the state, by setting, where the two differ.

A changed name would update every registered model version.
"""


class QualitySettings(Group):
    auc_min: float = Field(
        0.65, ge=0.5, lt=1, description="Smallest area under the ROC curve on the test set.", examples=[0.7]
    )
    log_loss_gain_min: float = Field(
        0.0,
        ge=0,
        description="The log loss must be lower by more than this than the log loss of a constant prediction, the "
        "click rate.",
        examples=[0.005],
    )
    calibration_gap_max: float = Field(
        0.05,
        gt=0,
        le=1,
        description="Largest difference between the mean probability and the click rate.",
        examples=[0.02],
    )
    calibration_error_max: float = Field(
        0.1,
        gt=0,
        le=1,
        description="Largest expected calibration error over ten groups of the test set.",
        examples=[0.05],
    )
    test_clicks_min: int = Field(
        100,
        ge=1,
        description="Smallest number of clicks in the test set. With fewer clicks the other figures are too uncertain.",
        examples=[500],
    )
    probability_spread_min: float = Field(
        0.05,
        ge=0,
        description="Smallest standard deviation of the probabilities, divided by their mean.",
        examples=[0.1],
    )
    mode_share_max: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Largest share of rows that may get the most frequent probability.",
        examples=[0.3],
    )
    feature_auc_max: float = Field(
        0.98,
        gt=0.5,
        le=1,
        description="Largest area under the ROC curve of a single feature. A feature above it probably contains the "
        "label.",
        examples=[0.95],
    )
    auc_drop_max: float = Field(
        0.005,
        ge=0,
        le=1,
        description="Largest drop of the AUC from the live model to the candidate, at the optimistic bound of the 95 % "
        "interval of the change.",
        examples=[0.01],
    )
    log_loss_rise_max: float = Field(
        0.005,
        ge=0,
        description="Largest rise of the log loss from the live model to the candidate, at the optimistic bound of the "
        "95 % interval of the change.",
        examples=[0.01],
    )
    psi_max: float = Field(
        0.25,
        gt=0,
        description="Largest feature drift: population stability index of a feature, compared with the live model's "
        "training rows.",
        examples=[0.4],
    )
    unseen_rise_max: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Largest rise of a feature's share of values that the live model does not know, compared with the "
        "live model's training rows.",
        examples=[0.3],
    )

    @property
    def limits(self) -> dict[str, float]:
        """Limits of the gate by their names in the state, as `infra/release/checks/gate.py` takes them."""
        return {STATE_NAMES.get(name, name): limit for name, limit in self.model_dump().items()}
