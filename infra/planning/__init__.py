"""Capacity, cost, versions and regions, computed before any resource exists."""
