"""The helper CLI: the local run, and talking to an endpoint. Nothing of the product imports this."""
