"""The serving stage: a registered model to the live deployment."""
