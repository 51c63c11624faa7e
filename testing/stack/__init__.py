"""Stacks for tests: local runs, the program under mocks, and manual changes."""
