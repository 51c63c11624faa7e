"""Databricks: Unity Catalog, files, jobs, clusters and MLflow of the workspaces in the ARM store."""
