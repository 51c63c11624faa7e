"""Changes of a stack before they are applied: preview, plan, change report and approved steps."""
