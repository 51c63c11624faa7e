"""The training workload on Spark: dataset specs, prepare, train, and a generator of synthetic rows in Criteo's format.

It is built as a separate wheel, which Databricks starts through entry points. It imports no other package of this
project: training passes the artefact to serving, never code. It does not decide about a model: `train` always writes
metrics, and the release's gate evaluates them.
"""

__version__ = "0.1.0"
