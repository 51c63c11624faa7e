"""Decisions of a release: which model is a candidate, whether it passes the gate, how it answers."""
