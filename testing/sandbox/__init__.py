"""Sandboxes for tests, with the resources that a test needs."""
