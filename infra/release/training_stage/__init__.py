"""From raw rows to a registered model."""
