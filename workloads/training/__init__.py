"""Fitting: LightGBM on Spark, its watchdog, warm start, baseline and the saved pipeline."""
