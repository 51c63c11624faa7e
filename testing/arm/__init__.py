"""Requests to ARM, and models of Azure's clients to check them with."""
