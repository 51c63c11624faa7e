"""Rows, specs and Spark sessions for tests of the workload."""
