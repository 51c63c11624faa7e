"""Checks of `personalization preflight`: one file per subject, each with its questions about one target."""
