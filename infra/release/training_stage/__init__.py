"""The training stage: raw rows to a registered model."""
