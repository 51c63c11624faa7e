"""Base of all dynamic resources: provider, comparison, ownership, polling."""
