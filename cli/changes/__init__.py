"""Changes of a stack before they are applied: preview, plan, report and approved steps."""
