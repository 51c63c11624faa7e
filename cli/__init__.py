"""The `personalization` command. `main.py` defines its subcommands:

- `local`, `local-down`: create and remove the local run
- `score`, `rank`, `lineage`, `open`, `notebooks`: use and inspect a deployed stack
- `movielens`, `check`, `evaluate`, `tune`: prepare a dataset and its spec, without a stack
- `new-stack`, `plan`, `preflight`, `snapshot`, `teardown`: manage stacks on Azure
- `report`, `steps`, `approval`: pull requests and deployments in the workflows

Nothing that is deployed imports this package; `benchmarks/` and the tests do.
"""
