"""What runs on Spark: dataset specs, prepare, train, and a generator of Criteo-shaped rows.

Built as a wheel of its own and started by Databricks through its entry points. Imports none of the other rooms:
what passes on to serving is the artefact, never code. Does not judge a model: `train` always writes its metrics,
the gate reads them.
"""

__version__ = "0.1.0"
