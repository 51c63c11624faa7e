"""Execution of Databricks runs and notebooks on this machine."""
