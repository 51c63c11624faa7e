"""The `personalization` command. `main.py` defines the subcommands:

- `local`, `local-down`: create and remove the local run
- `score`, `rank`, `lineage`, `dashboard`, `notebooks`: use and inspect a deployed stack
- `movielens`, `check`, `cross-validate`, `tune`: prepare a dataset and its spec, without a stack
- `new-stack`, `plan`, `preflight`, `select-snapshot`, `teardown`: manage stacks on Azure
- `change-report`, `steps`, `approval`: pull requests and deployments in the workflows

Deployed code does not import this package; `benchmarks/` and the tests do.
"""
