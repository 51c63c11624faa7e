"""Checks of a release: choice of a candidate, quality gate, and probe of a deployment."""
