"""Entra, certificates, roles and role assignments."""
