"""Entry points: one module for each task that a cluster runs."""
