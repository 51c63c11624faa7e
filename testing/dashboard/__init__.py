"""A stack for tests of the dashboard."""
