"""Clients for Azure ML, Databricks and storage, with the login that azure-native uses."""
