"""Monitoring of a stack: log workspace, diagnostic settings, alerts, dashboard and budget."""
