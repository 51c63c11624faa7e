"""Evaluation of a fitted model: metrics, comparisons, drift, golden rows and the model card."""
