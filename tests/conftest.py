"""Fixtures every part may use."""
