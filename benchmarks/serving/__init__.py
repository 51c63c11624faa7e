"""Parts of `benchmarks.scoring`."""
