"""Stacks: files, state, lineage and teardown."""
