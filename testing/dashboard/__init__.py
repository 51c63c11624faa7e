"""An example stack for tests and screenshots of the dashboard."""
