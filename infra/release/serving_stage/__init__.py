"""From a registered model to the live deployment."""
