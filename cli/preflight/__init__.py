"""Checks of `personalization preflight`: one module per subject. `checks(target)` of a module yields its checks."""
