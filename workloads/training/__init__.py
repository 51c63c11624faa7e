"""Fit LightGBM on Spark: its watchdog, warm start, the baseline and the saved pipeline."""
