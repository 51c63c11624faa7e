"""Gets a machine ready: Python environment, Pulumi CLI, Java. Standard library only; nothing else imports it."""
