"""The local run: sandbox, Pulumi engine, rows, and their folder."""
