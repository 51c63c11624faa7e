"""The local run: sandbox, Pulumi engine, rows, and the folder that contains them."""
